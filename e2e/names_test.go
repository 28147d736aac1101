package e2e

import (
	"fmt"
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
