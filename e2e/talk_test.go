package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// What people do who have come to talk.

// The page opens, one types, and is in.
func TestTwoPeopleTalk(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()

	ada.say("hello")
	ada.wantLines("hello")
	ada.wantState("hello", "back")
	bob.wantLines("hello")

	bob.write("good morning")
	bob.byRole("button", "Send").click()
	bob.wantLines("hello", "good morning")
	ada.wantLines("hello", "good morning")
}

// Enter belongs to the input method while it composes.
func TestComposingDoesNotSend(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.box().focus()
	ada.compose("にほん")
	ada.press("Enter")
	if got := ada.box().value(); strings.TrimSpace(got) != "にほん" {
		t.Errorf("after Enter the box holds %q", got)
	}
	ada.insert("日本") // the input method's choice
	ada.press("Enter")
	ada.wantLines("日本")
}

func TestMarkupIsTextAndLinksAreLinks(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	said := []string{
		`<b>bold</b> <img src=x onerror="document.title = 'hacked'"> &amp; </p><script>document.title = 'hacked'</script>`,
		`see https://example.org/a_(b)?c=d&e=f, or (http://example.org/).`,
		`javascript:alert(1) data:text/html,x ftp://example.org/`,
	}
	ada.say(said...)
	for _, p := range []*tab{ada, bob} {
		p.wantLines(said...)
		p.want("nothing in the text is an element but links", `lines().every(line => [...line.querySelectorAll('.text *')].every(e => e.matches('a')))`)
		p.want("the title is the page's", `!document.title.includes('hacked')`)
		p.want("two links", `JSON.stringify(all('a').map(a => a.href)) ===
			JSON.stringify(['https://example.org/a_(b)?c=d&e=f', 'http://example.org/'])`)
		p.want("they open on their own", `all('a').every(a => a.target === '_blank' &&
			['noopener', 'noreferrer', 'nofollow'].every(rel => a.relList.contains(rel)))`)
	}
}

// What is too long stays in the box; what is just not is sent.
func TestTooLongIsRefusedBeforeSending(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	long := strings.Repeat("é", 2049) // 4,098 bytes
	ada.write(long)
	ada.want("it says so", `/too long/i.test(document.body.innerText)`)
	ada.press("Enter")
	ada.byRole("button", "Send").click()
	if got := ada.box().value(); got != long {
		t.Errorf("the box holds %d bytes, want all %d", len(got), len(long))
	}
	ada.wantLines()

	longest := strings.Repeat("é", 2048)
	ada.box().selectAll()
	ada.insert(longest)
	ada.press("Enter")
	ada.wantLines(longest)
	bob.wantLines(longest)
	ada.say("still here")
	bob.wantLines(longest, "still here")
}

// A frame that is too long, sent by other means than the page's, is told why it
// ends the connection.
func TestTooLongByOtherMeans(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	for _, protocols := range []string{"[]", "['chat.v1']"} {
		for _, bytes := range []int{5_000, 40_000, 1_000_000} {
			ended := look[string](ada, fmt.Sprintf(`new Promise(resolve => {
				const socket = new WebSocket(new URL('ws', location).href.replace(/^http/, 'ws'), %s);
				const text = 'x'.repeat(%d);
				socket.onopen = () => socket.send(socket.protocol ? JSON.stringify({ text }) : text);
				socket.onclose = event => resolve(event.code + ' ' + event.reason);
			})`, protocols, bytes))
			if !strings.HasPrefix(ended, "1009 a message may have ") {
				t.Errorf("%d bytes on %s end with %q", bytes, protocols, ended)
			}
		}
	}
	ada.say("still here")
	ada.wantState("still here", "back")
}

// Who reads further up is left alone, but told what comes.
func TestReadingFurtherUp(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	bot := chat.joinProgram("")
	said := numbered(60, "line")
	bot.say(said...)
	ada.wantLines(said...)
	ada.want("at the bottom", "fromEnd() < 8")

	ada.scroll(-300)
	ada.want("further up", "fromEnd() > 100")
	top := look[float64](ada, "lines()[30].getBoundingClientRect().top")
	more := numbered(5, "more")
	bot.say(more...)
	ada.wantLines(append(said, more...)...)
	ada.want("the button counts", `visible(one('#jump')) && /^5 new/.test(textOf(one('#jump')))`)
	if now := look[float64](ada, "lines()[30].getBoundingClientRect().top"); now != top {
		t.Errorf("what was at %v is at %v", top, now)
	}

	ada.byRole("button", "5 new messages").click()
	ada.want("at the bottom", "fromEnd() < 8 && !visible(one('#jump'))")
	bot.say("the last")
	ada.want("still at the bottom", "fromEnd() < 8 && texts().at(-1) === 'the last'")
}

// At the end, one stays there when the log becomes smaller, and leaves it to read what was folded.
func TestStayingAtTheEnd(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	bob.say(numbered(40, "line")...)
	ada.want("at the end", "texts().at(-1) === 'line 40' && fromEnd() < 8")
	ada.say("my first")
	ada.want("the strip does not hide it", "visible(one('#name-offer')) && fromEnd() < 8")
	ada.write("one\ntwo\nthree\nfour\nfive")
	look[any](ada, `new Promise(resolve => {
		const input = one('#message');
		let left = 10;
		const grow = () => {
			if (left-- === 0) return resolve();
			log().scrollTop = log().scrollHeight; // as a message does
			input.value += '\n';
			requestAnimationFrame(grow);
		};
		grow();
	})`)
	bob.say("while she writes")
	ada.want("still at the end", "texts().at(-1) === 'while she writes' && fromEnd() < 8")

	bob.say(strings.Join(numbered(60, "row"), "\n"))
	ada.byRole("button", "Show all").click()
	top := look[float64](ada, "log().scrollTop")
	bob.say("while she reads")
	ada.byRole("button", "1 new message")
	if now := look[float64](ada, "log().scrollTop"); now != top {
		t.Errorf("what was at %v is at %v", top, now)
	}
}

// Whoever comes back to the tab, or from further up, sees where they left off, until they have spoken or left again.
func TestWhereYouLeftOff(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	said := numbered(62, "line")
	bob.say(said...)
	ada.wantLines(said...)
	ada.want("no separator", "!one('[role=separator]')")

	ada.hide(true)
	bob.say("one", "two", "three")
	ada.wantLines(append(said, "one", "two", "three")...)
	ada.hide(false)
	ada.byRole("separator", "3 new messages")
	const next = `textOf(one('[role=separator]').nextElementSibling.querySelector('.text'))`
	ada.want("it stands above the first of them, which shows its sender", next+` === 'one' &&
		!one('[role=separator]').nextElementSibling.matches('.grouped') && one('[role=separator]').innerText === '3 new messages'`)
	ada.want("at the bottom", "fromEnd() < 8")
	bob.say("four")
	ada.want("it stays", "texts().at(-1) === 'four' && visible(one('[role=separator]'))")
	ada.hide(true)
	ada.want("left again, it goes, and the group is one again",
		"!one('[role=separator]') && lines().find(line => textOf(line.querySelector('.text')) === 'one').matches('.grouped')")
	ada.hide(false)
	ada.want("nothing new, no separator", "!one('[role=separator]')")

	ada.scroll(-100)
	ada.want("a little up, nothing to jump to", "fromEnd() > 50 && !visible(one('#jump'))")
	bob.say("five", "six")
	ada.byRole("button", "2 new messages").click()
	ada.byRole("separator", "2 new messages")
	ada.want("above the first", next+" === 'five'")
	ada.scroll(-100)
	ada.want("it is there for who looks for it", "fromEnd() > 50 && visible(one('[role=separator]'))")
	ada.scroll(200)
	ada.want("all seen, it goes", "fromEnd() < 8 && !one('[role=separator]')")
	ada.hide(true)
	bob.say("seven")
	ada.want("seven", "texts().at(-1) === 'seven'")
	ada.hide(false)
	ada.byRole("separator", "1 new message")
	ada.say("I see")
	ada.want("spoken, it goes", "!one('[role=separator]') && texts().at(-1) === 'I see'")

	ada.scroll(-1000)
	ada.byRole("button", "To the last message").click()
	ada.want("at the bottom, where there is nothing to jump to", "fromEnd() < 8 && !visible(one('#jump')) && !one('[role=separator]')")
}

func TestUnreadAreCountedInTheTitle(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	title := look[string](ada, "document.title")
	ada.hide(true)
	bob.say("one", "two")
	ada.want("the title counts two", "document.title.includes('(2)')")
	ada.hide(false)
	ada.want("the title does not count", "document.title === "+quoted(title))
}

// While the tab is hidden, the icon has a dot for what is unread, a sound can be turned on, and the browser
// tells, if it may, that one is named. Nothing is asked for unbidden.
func TestWhenHidden(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	stub := func() {
		t.Helper()
		look[any](ada, `void (() => {
			window.sounds = 0;
			const start = OscillatorNode.prototype.start;
			OscillatorNode.prototype.start = function () { sounds++; start.call(this); };
			window.asked = 0;
			window.notified = [];
			window.Notification = class extends EventTarget {
				static permission = 'default';
				static async requestPermission() { asked++; return Notification.permission = 'granted'; }
				constructor(title, { body }) { super(); notified.push(title + ': ' + body); }
			};
		})()`)
	}
	stub()
	ada.rename("Ada")
	bob.rename("Bob")
	ada.wantNames("Ada", "Bob")
	const icon = "one('link[rel=icon]').href"
	plain := look[string](ada, icon)
	ada.hide(true)
	bob.say("one", "Ada, two")
	ada.want("a dot", icon+" !== "+quoted(plain)+" && document.title.startsWith('(2 @)')")
	ada.want("the icon can be drawn", `new Promise(resolve => {
		const image = new Image();
		image.onload = () => resolve(image.naturalWidth > 0);
		image.onerror = () => resolve(false);
		image.src = `+icon+`;
	})`)
	ada.hide(false)
	ada.want("no dot", icon+" === "+quoted(plain))
	ada.want("no sound, no question, no notification", "sounds === 0 && asked === 0 && notified.length === 0")

	ada.byRole("button", "Sound").click()
	ada.want("the button is pressed, and one hears what it does", "one('#sound').ariaPressed === 'true' && sounds === 1")
	ada.reload()
	stub()
	ada.wantOnline(2)
	ada.want("still on", "one('#sound').ariaPressed === 'true' && asked === 0")
	ada.byRole("button", "Rooms: The lobby").click()
	look[any](ada, "void (one('#notify').hidden = false)") // this Chromium knows no question
	ada.byRole("button", "Notify me when I am named").click()
	ada.want("she is asked", "asked === 1 && one('#notify').hidden")
	bob.say("three")
	ada.want("three", "texts().at(-1) === 'three'")
	ada.want("no sound while she looks", "sounds === 0")
	ada.hide(true)
	bob.say("four")
	ada.want("a sound", "sounds === 1")
	bob.say("well, @Ada?")
	ada.want("a notification, for what names her", "notified.join() === 'Bob – Chat: well, @Ada?'")
	ada.hide(false)
	ada.byRole("button", "Sound").click()
	ada.want("off", "one('#sound').ariaPressed === 'false'")
	ada.hide(true)
	bob.say("five")
	ada.want("no sound", "document.title.startsWith('(1)') && sounds === 1")
}

// The page saves what it shows as text, and prints all of it.
func TestSaveAndPrint(t *testing.T) {
	chat := startChat(t)
	ada, bob, eve := chat.openRoom("team"), chat.openRoom("team"), chat.openRoom("team")
	ada.rename("Ada")
	bob.rename("Bob")
	eve.rename("Eve")
	ada.wantNames("Ada", "Bob", "Eve")
	bob.say("hello <b>Ada</b>")
	ada.wantLines("hello <b>Ada</b>")
	eve.say("not to be seen")
	ada.wantLines("hello <b>Ada</b>", "not to be seen")
	ada.byRole("button", "3 online").click()
	ada.byRole("button", "Mute Eve").click()
	ada.write("two\nlines")
	ada.press("Enter")
	ada.wantState("two\nlines", "back")

	ada.byRole("button", "Rooms: team").click()
	folder := t.TempDir()
	info, err := chromedp.Call(ada.ctx, target.GetTargetInfo, target.GetTargetInfoParams{})
	ada.must(err)
	ada.must(call(ada, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: folder, BrowserContextID: info.TargetInfo.BrowserContextID,
	}))
	ada.byRole("button", "Save as text").click()
	saved := ""
	eventually(t, "a file", func() bool {
		files, _ := filepath.Glob(filepath.Join(folder, "chat-team-????-??-??.txt"))
		if len(files) == 0 {
			return false
		}
		text, err := os.ReadFile(files[0])
		saved = string(text)
		return err == nil && saved != ""
	})
	const at = `\d{4}-\d\d-\d\d \d\d:\d\d `
	if !regexp.MustCompile("^" + at + "Bob: hello <b>Ada</b>\n" + at + "Ada: two\n    lines\n$").MatchString(saved) {
		t.Errorf("saved is %q", saved)
	}

	for range 6 {
		bob.say(strings.Repeat("a line of a long message\n", 39) + "its end")
	}
	ada.want("all is there", "texts().length === 9 && all('.fold').length === 6")
	pdf, err := chromedp.Call(ada.ctx, page.PrintToPDF, page.PrintToPDFParams{})
	ada.must(err)
	if pages := len(regexp.MustCompile(`/Type /Page\b`).FindAll(pdf.Data, -1)); pages < 5 {
		t.Errorf("240 lines are printed on %d pages", pages)
	}
	ada.must(call(ada, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"}))
	ada.want("nothing is cut off, and every line has its time", `log().scrollHeight <= log().clientHeight &&
		all('.text').every(text => text.scrollHeight <= text.clientHeight + 1) &&
		lines().filter(visible).every(line => getComputedStyle(line.querySelector('time')).opacity === '1')`)
	ada.want("nothing is there that only works on a screen", "[...document.querySelectorAll('button, input, textarea')].filter(visible).map(textOf).join() === textOf(one('#rooms'))")
}

// A button at the top of the log brings what was said before, and what one was reading stays where it is.
func TestEarlierMessages(t *testing.T) {
	chat := startChat(t, "-rate", "0")
	robot := chat.joinProgram("Robot")
	said := numbered(180, "line")
	robot.say(said...)
	robot.wantHeard("line 180")
	ada := chat.open()
	ada.wantLines(said[130:]...)
	ada.want("at the bottom, without the button", "fromEnd() < 8 && !visible(one('#earlier'))")

	for _, first := range []int{30, 0} {
		ada.want("at the top", "(log().scrollTop = 0) === 0 && visible(one('#earlier button'))")
		top := look[[]any](ada, "[lines()[0].querySelector('.text').textContent, lines()[0].getBoundingClientRect().top]")
		button := ada.byRole("button", "Earlier messages")
		if first == 30 {
			ada.line.cut()
			button.click()
			ada.want("it says what is wrong", "/cannot be fetched/i.test(textOf(one('#earlier')))")
			ada.wantLines(said[130:]...)
			ada.line.mend()
			ada.wake()
			ada.wantConnected()
		}
		button.focus()
		ada.press("Enter")
		ada.wantLines(said[first:]...)
		ada.want("what was at the top stays there", fmt.Sprintf("Math.abs(lines().find(line => textOf(line.querySelector('.text')) === %q).getBoundingClientRect().top - %v) < 1", top[0], top[1]))
		ada.want("the log has the focus", "document.activeElement === log()")
		ada.wantSaid("Robot", said[first])
	}
	ada.want("nothing earlier, no button", "(log().scrollTop = 0) === 0 && !visible(one('#earlier'))")
	ada.want("one day, at the top", "all('.day').length <= 1")
	robot.say("and now")
	ada.wantLines(append(said, "and now")...)

	bob := chat.openRoom("empty")
	bob.say("first")
	carl := chat.openRoom("empty")
	carl.wantLines("first")
	carl.want("nothing earlier, no button", "!visible(one('#earlier'))")
}
