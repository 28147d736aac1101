package e2e

import (
	"fmt"
	"image"
	"image/color"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
)

// What people write is what people read.

// Pasted lines, or lines made with Shift+Enter, are one message, with their indentation.
func TestSeveralLinesAreOneMessage(t *testing.T) {
	chat := startChat(t)
	ada, bob, robot := chat.open(), chat.open(), chat.joinProgram("")
	const code = "func main() {\n\tif x {\n\t\treturn\n\n    }\n}"
	ada.box().focus()
	ada.insert("\n \n" + code + "  \n\n")
	ada.press("Enter")
	ada.want("it is back", "lines()[0]?.dataset.state === 'back'")

	ada.write("    first")
	ada.pressShiftEnter()
	ada.insert("second")
	ada.press("Enter")
	for _, p := range []*tab{ada, bob} {
		p.want("two messages, as they were written", "JSON.stringify("+rawTexts+") === JSON.stringify("+quoted([]string{code, "    first\nsecond"})+")")
		p.want("a line below a line", "lines()[0].querySelector('.text').clientHeight > 6 * 20")
	}
	robot.wantHeard("func main() {  if x {   return      } }")
	robot.wantHeard("first second")
}

// rawTexts is what the messages say, with the spaces around it.
const rawTexts = "all('.line:not(.note) .text').map(text => text.textContent)"

// pressShiftEnter makes another line in the box.
func (p *tab) pressShiftEnter() {
	p.t.Helper()
	for _, what := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
		p.must(call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{
			Type: what, Key: "Enter", Code: "Enter", Text: "\r", WindowsVirtualKeyCode: 13, Modifiers: 8, // Shift
		}))
	}
}

// What does not fit in one message goes out as few messages as can be, cut between lines, and the page says so before.
func TestTooLongForOneMessage(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	var first, second []string
	for i := range 50 {
		first = append(first, fmt.Sprintf("  %080d", i)) // 83 bytes with its line break, of which 4,096 bytes hold 49
	}
	first, second = first[:49], append(first[49:], "the end")
	ada.write(strings.Join(append(first, second...), "\n"))
	ada.want("it says so before", "/2 messages/.test(document.querySelector('main form').innerText)")
	ada.press("Enter")
	for _, p := range []*tab{ada, bob} {
		p.want("two messages", "JSON.stringify("+rawTexts+") === JSON.stringify("+
			quoted([]string{strings.Join(first, "\n"), strings.Join(second, "\n")})+")")
	}
}

// The budget speaks of letters, since nobody knows how many bytes a letter has.
func TestBudgetInLetters(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	for text, want := range map[string]string{
		strings.Repeat("é", 2048+50):       "Too long by about 50 letters",
		strings.Repeat("x", 4096-30):       "about 30 more letters|about 30 letters more",
		strings.Repeat("日", 4096/3+1):      "Too long by about 1 letter\\\\.",
		strings.Repeat("x", 4096-200):      "^$",
		strings.Repeat("🦉", 4096/4) + "ab": "Too long by about 1 letter\\\\.",
	} {
		ada.box().selectAll()
		ada.insert(text)
		ada.want(want, "new RegExp("+quoted(strings.ReplaceAll(want, `\\`, `\`))+").test(one('#length-hint').textContent)")
	}
}

// A long message is folded by its height, and its text is all there.
func TestLongMessageIsFolded(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	long := strings.Join(numbered(100, "line"), "\n")
	ada.say(strings.Join(numbered(10, "short"), "\n"), long)
	for _, p := range []*tab{ada, bob} {
		p.want("the long one is folded", "lines().length === 2 && lines()[1].offsetHeight < 500")
		p.want("all of its text is there", rawTexts+"[1] === "+quoted(long))
		p.want("the log is at its end", "fromEnd() < 8")
		p.want("the short one is not", "!lines()[0].querySelector('button')")
		p.byRole("button", "Show all").click()
		p.want("all of it is shown", "lines()[1].offsetHeight > 2000")
		p.byRole("button", "Show less").click()
		p.want("it is folded again", "lines()[1].offsetHeight < 500")
	}
}

// Two marks make code, and nothing else is markup.
func TestCode(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	wide := strings.Repeat("wide ", 60)
	ada.say("run `go test ./...` or `<b>` now", "look:\n```go\nfunc main() {\n\tx := \"`\" // "+wide+"\n}\n```\nand so on",
		"**bold** _it_ ~~no~~ > quote `` ` ``` ` `\n```\nnot closed", "```\nhttps://example.org `x`\n```")
	for _, p := range []*tab{ada, bob} {
		p.want("four messages", "lines().length === 4")
		p.want("code in a line", `JSON.stringify([...lines()[0].querySelectorAll('code')].map(c => c.textContent)) === '["go test ./...","<b>"]'`)
		p.want("it says the rest as well", `textOf(lines()[0].querySelector('.text')) === 'run go test ./... or <b> now'`)
		p.want("a block", `lines()[1].querySelector('pre').textContent === `+quoted("func main() {\n\tx := \"`\" // "+wide+"\n}"))
		p.want("text around it", `/^look:.*and so on$/s.test(textOf(lines()[1].querySelector('.text'))) && !/`+"```"+`/.test(lines()[1].textContent)`)
		p.want("it scrolls sideways, by keyboard too", `(pre => pre.scrollWidth > pre.clientWidth && pre.tabIndex === 0 &&
			pre.clientWidth < log().clientWidth)(lines()[1].querySelector('pre'))`)
		p.want("it is monospace", `/mono/.test(getComputedStyle(lines()[0].querySelector('code')).fontFamily)`)
		p.want("no other markup", `lines()[2].querySelectorAll('.text *').length === 0 && lines()[2].textContent.includes('**bold** _it_ ~~no~~ > quote')`)
		p.want("no link in code", `lines()[3].querySelectorAll('pre').length === 1 && !lines()[3].querySelector('a, pre + *')`)
	}
}

// A character with two thousand marks inks its own line, and no other.
func TestMarksStayInTheirLine(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.say("above", "x"+strings.Repeat("\u0301", 2000), "below")
	bob.want("three lines", "lines().length === 3")
	for _, p := range []*tab{ada, bob} {
		p.want("the lines are where they are", `lines()[1].offsetHeight < 60 && log().scrollHeight <= log().clientHeight`)
	}
	// Not every font stacks marks. A shadow of the text takes as much room in any.
	above, below := bob.drawn("lines()[0]"), bob.drawn("lines()[2]")
	look[any](bob, "void (lines()[1].style.textShadow = '0 -40px currentColor, 0 40px currentColor')")
	if differ(above, bob.drawn("lines()[0]")) || differ(below, bob.drawn("lines()[2]")) {
		t.Error("the marks are drawn over another line")
	}
}

// differ reports whether two pictures of the same size show different things.
func differ(a, b image.Image) bool {
	for y := range a.Bounds().Dy() {
		for x := range a.Bounds().Dx() {
			left, right := color.GrayModel.Convert(a.At(x, y)).(color.Gray), color.GrayModel.Convert(b.At(x, y)).(color.Gray)
			if max(left.Y, right.Y)-min(left.Y, right.Y) > 64 { // less is another way to draw an edge
				return true
			}
		}
	}
	return false
}

// Twenty links a message, at most: the others stay text.
func TestAtMostTwentyLinks(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	text := strings.TrimSpace(strings.Repeat("http://a/ ", 400))
	ada.say(text)
	for _, p := range []*tab{ada, bob} {
		p.want("all of the text, and 20 links", "lines()[0]?.querySelectorAll('a').length === 20 && texts()[0] === "+quoted(text))
	}
	ada.say(strings.Repeat("`x` ", 1000), strings.TrimSpace(strings.Repeat("```\nx\n```\n", 60)))
	bob.want("nor does code fill the page with elements", "lines().length === 3 && lines().every(line => line.querySelectorAll('*').length < 150)")
}

// A link shows where it leads.
func TestLinksShowTheirHost(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	for i, link := range []struct{ written, shown, href string }{
		{"www.example.org/a?b=www.c", "www.example.org/a?b=www.c", "http://www.example.org/a?b=www.c"},
		{"https://bücher.example/ü", "https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"},
		{"https://日本語テスト.example", "https://日本語テスト.example", "https://xn--zckzah9945czlbtz6h.example/"},
		{"https://example.org:8080/A", "https://example.org:8080/A", "https://example.org:8080/A"},
		{"HTTP://Example.ORG/A", "HTTP://Example.ORG/A", "http://example.org/A"},
		{"http://[::1]:80/", "http://[::1]:80/", "http://[::1]/"},
		{"https://аpple.com/x", "https://xn--pple-43d.com/x", "https://xn--pple-43d.com/x"}, // the first letter is Cyrillic
		{"https://аррӏе.com", "https://xn--80ak6aa92e.com", "https://xn--80ak6aa92e.com/"},  // all are
		{"https://ｅｘａｍｐｌｅ.org/", "https://example.org/", "https://example.org/"},            // fullwidth
		{"http://2130706433/", "http://127.0.0.1/", "http://127.0.0.1/"},                    // an address in disguise
		{"https://paypal.com@example.org/", "", ""},                                         // a name in disguise
		{"www.nothing", "", ""},
	} {
		ada.say(link.written)
		got := look[[]string](ada, fmt.Sprintf("(a => [a?.textContent ?? '', a?.href ?? ''])(lines()[%d].querySelector('a'))", i))
		if got[0] != link.shown || got[1] != link.href {
			t.Errorf("%s is shown as %q", link.written, got)
		}
	}
}

// Emoji alone are large.
func TestEmojiAreLarge(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.say("🎉🎉", "👩‍👩‍👧 ❤️ 🇫🇷", "1️⃣ 2", "party 🎉", "#", "12")
	for _, p := range []*tab{ada, bob} {
		p.want("the first two are large", `JSON.stringify(lines().map(line =>
			parseFloat(getComputedStyle(line.querySelector('.text')).fontSize) >= 24)) === '[true,true,false,false,false,false]'`)
	}
}
