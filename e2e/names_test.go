package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// Who is here, and what is known of them.

func TestANameIsKeptOverAReload(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.rename("Ada")
	bob.wantNames("Ada", "guest")
	ada.say("hello")
	bob.wantSaid("Ada", "hello")

	ada.reload()
	if got := ada.byRole("textbox", "Your name").value(); got != "Ada" {
		t.Errorf("after a reload the name is %q", got)
	}
	ada.say("me again")
	bob.wantSaid("Ada", "me again")
	bob.wantLines("hello", "me again")
	ada.wantLines("hello", "me again")
	ada.want("both lines are her own", "lines().every(line => line.matches('.own'))")
}

// A name changed in the middle of a conversation: nothing is missed, nothing comes twice.
func TestRename(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.say("one")
	ada.rename("Ada")
	bob.wantNames("Ada", "guest")
	ada.say("two")
	ada.rename("Ada Lovelace")
	bob.wantNames("Ada Lovelace", "guest")
	ada.say("three")
	bob.wantLines("one", "two", "three")
	bob.wantSaid("Ada Lovelace", "three")
	bob.wantSaid("guest", "one")
	ada.wantLines("one", "two", "three")
	ada.wantOnline(2)
}

// People are counted, not tabs.
func TestWhoIsOnline(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.wantOnline(1)
	bob := chat.open()
	bob.rename("Bob")
	ada.wantOnline(2)
	ada.wantNames("guest", "Bob")
	bob2 := bob.anotherTab()
	chat.joinProgram("Robot")
	ada.wantNames("guest", "Bob", "Robot")
	ada.wantOnline(3)
	bob2.close()
	bob.close()
	ada.wantNames("guest", "Robot")
	ada.wantOnline(2)
}

// Two tabs of one person: both show everything once, as their own.
func TestTwoTabsOfOnePerson(t *testing.T) {
	chat := startChat(t)
	left := chat.open()
	right := left.anotherTab()
	left.say("from the left")
	right.wantLines("from the left")
	right.say("from the right")
	for _, p := range []*tab{left, right} {
		p.wantLines("from the left", "from the right")
		p.want("both lines are their own", "lines().every(line => line.matches('.own'))")
	}
}

func TestANewcomerSeesWhatWasSaid(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.rename("Ada")
	ada.say("is this on?", "<hello>")
	ada.wantState("<hello>", "back")
	robot := chat.joinProgram("Robot")
	robot.say("it is")
	ada.wantLines("is this on?", "<hello>", "it is")

	bob := chat.open()
	bob.wantLines("is this on?", "<hello>", "it is")
	bob.wantSaid("Ada", "<hello>")
	bob.wantSaid("Robot", "it is")
	bob.say("yes")
	ada.wantLines("is this on?", "<hello>", "it is", "yes")
}

// Two of one name can be told apart.
func TestTwoOfOneName(t *testing.T) {
	chat := startChat(t)
	ada, bob, eve := chat.open(), chat.open(), chat.open()
	bob.say("I am bob")
	eve.say("I am eve")
	ada.wantNames("guest", "guest", "guest")
	ada.wantLines("I am bob", "I am eve")
	ada.want("their names differ", `new Set(lines().map(line => textOf(line.querySelector('.who')))).size === 2`)
}

// Names and words that are too much for a line.
func TestWhatDoesNotFit(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.device(360, 640, true, "light")
	emoji := ""
	for range 32 {
		emoji += "🦉"
	}
	bob.rename(emoji)
	ada.wantNames(emoji, "guest")
	word := fmt.Sprintf("%04000d", 7)
	bob.say(word, "שלום עולם", "short")
	ada.wantLines(word, "שלום עולם", "short")
	ada.wantSaid(emoji, "short")
	ada.want("nothing is wider than the screen", `document.documentElement.scrollWidth <= innerWidth && log().scrollWidth <= log().clientWidth`)
	ada.want("Hebrew runs from right to left", `getComputedStyle(lines()[1].querySelector('.text')).direction === 'rtl'`)
	for i := range 40 {
		chat.joinProgram(fmt.Sprint("Robot_", i))
	}
	ada.wantOnline(42)
	ada.want("the box is still there", `(box => box.bottom <= innerHeight && box.top > innerHeight / 3)(one('textarea').getBoundingClientRect())`)
}

// Names that look alike have a tag, in whatever case, width or script; so has who calls themselves "You".
func TestNamesThatLookAlike(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	const cyrillic, wide, invisible = "\u0412\u043eb", "\uff22\uff4f\uff42", "B\u3164o\u034fb"
	for _, name := range []string{"Bob", cyrillic, wide, "BOB", invisible, "Zo\u00eb", "You"} {
		bob := chat.open()
		bob.rename(name)
		bob.say("I am " + name)
		ada.wantSaid(name, "I am "+name)
	}
	ada.want("all but one have a tag", `(tags =>
		JSON.stringify(tags.map(Boolean)) === '[true,true,true,true,true,false,true]' && new Set(tags).size === 7
	)(lines().map(line => textOf(line.querySelector('.tag'))))`)
}

// Twelve people have twelve colours, which can be told apart, on a light page and a dark one.
func TestColours(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	for i := range 12 {
		robot := chat.joinProgram(fmt.Sprint("Robot_", i))
		robot.say("beep")
		ada.wantSaid(fmt.Sprint("Robot_", i), "beep")
	}
	for _, scheme := range []string{"light", "dark"} {
		ada.device(1024, 720, false, scheme)
		closest := look[float64](ada, `(() => {
			const canvas = new OffscreenCanvas(1, 1).getContext('2d');
			const colours = lines().map(line => {
				canvas.fillStyle = getComputedStyle(line.querySelector('.who')).color;
				canvas.fillRect(0, 0, 1, 1);
				const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(c => c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
				const [l, m, s] = [0.4122 * r + 0.5363 * g + 0.0514 * b, 0.2119 * r + 0.6807 * g + 0.1074 * b, 0.0883 * r + 0.2817 * g + 0.63 * b].map(Math.cbrt);
				return [0.2105 * l + 0.7936 * m - 0.0041 * s, 1.978 * l - 2.4286 * m + 0.4506 * s, 0.0259 * l + 0.7828 * m - 0.8087 * s]; // OKLab
			});
			return Math.min(...colours.flatMap((a, i) => colours.slice(0, i).map(b => Math.hypot(...a.map((x, k) => x - b[k])))));
		})()`)
		if closest < 0.06 { // three times what people just notice
			t.Errorf("on a %s page two colours differ by %.3f", scheme, closest)
		}
	}
}

// The list of people is sorted as people sort, and says who one is oneself. Whoever is muted is not seen any more, not
// counted, and still so after a reload, until that is taken back.
func TestWhoIsWho(t *testing.T) {
	chat := startChat(t)
	ada, bob, eve := chat.open(), chat.open(), chat.open()
	ada.rename("\u00c5sa")
	bob.rename("bob 10")
	eve.rename("Bob 9")
	third := chat.open()
	third.rename("Zo\u00eb")
	ada.wantOnline(4)
	ada.byRole("button", "4 online").click()
	ada.byRole("group", "Who is online")
	const people = `[...document.querySelectorAll('#names .who')].map(who => who.innerText.trim()).join()`
	ada.want("they are sorted", people+" === '\u00c5sa (you),Bob 9,bob 10,Zo\u00eb'")
	ada.want("each in the colour of the log", `new Set([...document.querySelectorAll('#names .who')].map(who => getComputedStyle(who).color)).size === 4`)

	bob.say("from bob")
	eve.say("from eve")
	ada.wantLines("from bob", "from eve")
	ada.byRole("button", "Mute bob 10").focus()
	ada.press("Enter")
	const seen = "lines().filter(visible).map(line => textOf(line.querySelector('.text'))).join()"
	ada.want("bob is not seen", seen+" === 'from eve'")
	ada.want("the button has the focus, and is pressed", "document.activeElement.matches('[aria-label=\"Mute bob 10\"][aria-pressed=true]')")
	ada.hide(true)
	bob.say("not counted")
	eve.say("counted")
	ada.want("one is unread", "document.title.startsWith('(1)')")
	ada.hide(false)
	tab2 := ada.anotherTab()
	ada.reload()
	for _, p := range []*tab{ada, tab2} {
		p.wantLines("from bob", "from eve", "not counted", "counted")
		p.want("bob is not seen", seen+" === 'from eve,counted'")
	}
	bob.wantLines("from bob", "from eve", "not counted", "counted")

	bob.close()
	ada.wantOnline(3)
	ada.byRole("button", "3 online").click()
	ada.byRole("button", "Mute bob 10").click()
	for _, p := range []*tab{ada, tab2} {
		p.want("bob is seen again", seen+" === 'from bob,from eve,not counted,counted'")
	}
}

// A message that names one is tinted, and the title of a hidden tab says so.
func TestBeingNamed(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.rename("Ada")
	ada.wantNames("Ada", "guest")
	said := []string{"Ada?", "has adapted", "well, @ada", "ask Adaa", "Ada's", "so-so"}
	bob.say(said...)
	ada.wantLines(said...)
	const tinted = `lines().map(line => getComputedStyle(line.querySelector('.text')).backgroundColor)
		.map((colour, i, all) => colour === all.at(-1) ? 0 : 1).join()`
	ada.want("those with her name are tinted", tinted+" === '1,0,1,0,1,0'")
	bob.want("nobody else's are", tinted+" === '0,0,0,0,0,0'")
	ada.hide(true)
	bob.say("one")
	ada.want("one is unread", "document.title.startsWith('(1) ')")
	bob.say("@Ada two")
	ada.want("one of two names her", "document.title.startsWith('(2 @) ')")
	ada.hide(false)
	ada.want("none is unread", "document.title === 'Chat'")

	bob.rename("\u592a\u90ce")
	ada.say("\u592a\u90ce\u3055\u3093\u3001\u304a\u306f\u3088\u3046")
	bob.want("a script without spaces", "getComputedStyle(lines().at(-1).querySelector('.text')).backgroundColor !== getComputedStyle(lines()[0].querySelector('.text')).backgroundColor")
}

// A click on a name writes it, and so do @ and Tab. Without an @, Tab goes on to the next element.
func TestWritingANameOfSomebody(t *testing.T) {
	chat := startChat(t)
	ada, bob, eve := chat.open(), chat.open(), chat.open()
	ada.rename("Ada")
	bob.rename("Bob Hope")
	eve.rename("Bobby")
	bob.say("hello")
	ada.wantSaid("Bob Hope", "hello")
	eve.say("hi")
	ada.wantSaid("Bobby", "hi")
	ada.write("dear")
	at := look[[]float64](ada, `(box => [box.x + box.width / 2, box.y + box.height / 2])(lines()[0].querySelector('.who bdi').getBoundingClientRect())`)
	ada.clickAt(at[0], at[1])
	want := func(text string) {
		t.Helper()
		ada.want("the box holds "+text, "document.activeElement === one('textarea') && one('textarea').value === "+quoted(text))
	}
	want("dear @Bob Hope ")
	ada.insert("and @b")
	ada.want("it says what Tab writes", "/Tab writes @Bobby/.test(one('main form').innerText)")
	ada.press("Tab")
	want("dear @Bob Hope and @Bobby ")
	ada.insert("and @bob h")
	ada.press("Tab")
	want("dear @Bob Hope and @Bobby and @Bob Hope ")
	ada.press("Tab")
	ada.want("the next element", "document.activeElement === one('main form button')")
}

// In a large room those are listed who have said something, so that they can be muted.
func TestWhoIsWhoInALargeRoom(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	for i := range 60 {
		robot := chat.joinProgram(fmt.Sprint("Robot_", i))
		if i == 2 || i == 10 {
			robot.say("beep")
			ada.wantSaid(fmt.Sprint("Robot_", i), "beep")
		}
	}
	ada.wantOnline(61)
	ada.wantNames("Robot_10", "Robot_2")
	ada.byRole("button", "61 online").click()
	ada.want("it says why, and they are in order", `/large room/.test(one('#people').innerText) && textOf(one('#names bdi')) === 'Robot_2'`)
	ada.byRole("button", "Mute Robot_10").click()
	ada.want("one is seen", "lines().filter(visible).length === 1")
}

// Whoever sends a first message as guest is offered a name, once, while the message goes out.
func TestYourNameFirst(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.want("nothing is offered yet", "!visible(one('#name-offer'))")
	ada.say("hello")
	bob.wantSaid("guest", "hello")
	ada.byRole("button", "Choose a name").click()
	ada.want("the name has the focus, and the strip is gone", "document.activeElement === one('#name') && !visible(one('#name-offer'))")
	ada.insert("Ada")
	ada.press("Enter")
	bob.wantNames("Ada", "guest")

	bob.say("hi")
	bob.byRole("button", "Stay guest").click()
	bob.want("he goes on writing", "document.activeElement === one('textarea') && !visible(one('#name-offer'))")
	bob.say("again")
	ada.wantSaid("guest", "again")
	bob.want("he is not asked again", "!visible(one('#name-offer'))")
	bob.reload()
	bob.say("and again")
	ada.wantSaid("guest", "and again")
	bob.want("not even now", "!visible(one('#name-offer'))")
}

// A name that is too long says so, Escape takes back, and the other tabs of the browser follow.
func TestYourName(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada2 := ada.anotherTab()
	ada.rename("Ada")
	ada2.want("the other tab has the name", "one('#name').value === 'Ada'")
	bob.wantNames("Ada", "guest")
	ada2.say("from the other tab")
	bob.wantSaid("Ada", "from the other tab")

	name := ada.byRole("textbox", "Your name").selectAll()
	ada.insert(strings.Repeat("a", 35))
	ada.want("it says so", `textOf(one('#name-error')) === 'Too long by 3 letters.' && one('#name').getAttribute('aria-invalid') === 'true'`)
	ada.press("Enter")
	ada.want("it is not taken", "document.activeElement === one('#name')")
	ada.press("Escape")
	if got := name.value(); got != "Ada" {
		t.Errorf("after Escape the name is %q", got)
	}
	ada.want("nothing is wrong", `textOf(one('#name-error')) === '' && one('#name').getAttribute('aria-invalid') === 'false'`)
	ada.press("Enter")
	ada.want("the box has the focus, and is empty", "document.activeElement === one('textarea') && one('textarea').value === ''")
	ada.say("me")
	bob.wantSaid("Ada", "me")
}
