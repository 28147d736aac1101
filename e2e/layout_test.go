package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/gorilla/websocket"
)

// Where things are, on a desk and on phones.

// On a phone there is one row above the lines, with a name that can be changed there.
func TestOneRowOnAPhone(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.openRoom("a-room-with-a-long-name-indeed"), chat.openRoom("a-room-with-a-long-name-indeed")
	bob.say("hello")
	for _, width := range []int64{320, 375, 390} {
		ada.device(width, 667, true, "light")
		ada.want("one row", `one('header').offsetHeight < 60 && document.documentElement.scrollWidth <= innerWidth`)
		for _, what := range []string{"#rooms", "#online", "#invite", "#name"} {
			ada.want(what+" is in it", fmt.Sprintf(`(box => box.left >= 0 && box.right <= innerWidth && box.width > 30)(one('%s').getBoundingClientRect())`, what))
		}
	}
	ada.rename("Ada")
	bob.wantNames("Ada", "guest")
	ada.wantConnected()
	ada.want("connected is not worth a word", `one('#status').offsetWidth <= 1`)
	ada.line.cut()
	ada.want("no connection is", `one('#status').offsetWidth > 100 && visible(one('#try-now'))`)
}

// A phone on its side, with a keyboard over its lower half, shows four lines.
func TestLandscapeWithKeyboard(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	bob.rename("Bob")
	bob.say(numbered(10, "line")...)
	ada.wantSaid("Bob", "line 10")
	ada.device(667, 375/2, true, "light")
	ada.box().focus()
	ada.want("four lines", `lines().filter(line => (box => box.top >= log().getBoundingClientRect().top &&
		box.bottom <= log().getBoundingClientRect().bottom)(line.getBoundingClientRect())).length >= 4`)
	ada.want("the box and its button", `['#message', 'main form button'].every(e => one(e).getBoundingClientRect().bottom <= innerHeight)`)
	look[any](ada, "one('#rooms').focus()")
	ada.want("the header comes back when it is needed", `one('header').offsetHeight > 20 && one('#rooms').getBoundingClientRect().top >= 0`)
}

// Letters of twice the size on a phone: nothing is cut off.
func TestLargeText(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	bob.say("a line of several words that has to be broken", "```\nfunc main() { log.Fatal(\"wide\") }\n```")
	ada.wantOnline(2)
	ada.device(375, 667, true, "light")
	look[any](ada, "void (document.documentElement.style.fontSize = '200%')")
	ada.want("nothing is wider than the screen", `document.documentElement.scrollWidth <= innerWidth && log().scrollWidth <= log().clientWidth`)
	ada.want("the box and its button are there", `['#message', 'main form button'].every(e => (box => box.right <= innerWidth && box.bottom <= innerHeight)(one(e).getBoundingClientRect()))`)
	ada.want("there is room for lines", `log().clientHeight > 200`)
	ada.byRole("button", "Rooms: The lobby").click()
	ada.want("there is room for a room's name", `one('#wanted').offsetWidth > 150 &&
		one('#doors').scrollWidth <= one('#doors').clientWidth`)
}

// A few lines stand near the box, and many can be scrolled through.
func TestFewLinesStandNearTheBox(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.say("hello")
	bob.wantLines("hello")
	for _, p := range []*tab{ada, bob} {
		p.want("near the box", `log().getBoundingClientRect().bottom - lines()[0].getBoundingClientRect().bottom < 40`)
	}
	bob.say(numbered(60, "line")...)
	ada.want("at the end", "texts().at(-1) === 'line 60' && fromEnd() < 8")
	ada.scroll(-10_000)
	ada.want("the first line can be reached", `log().scrollTop === 0 && lines()[0].getBoundingClientRect().top >= log().getBoundingClientRect().top`)
}

// What opens stays with the column, on wide screens and small ones.
func TestPopoversStayWithTheColumn(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.wantOnline(1)
	for _, width := range []int64{1600, 375, 320} {
		ada.device(width, 700, width < 400, "light")
		for _, button := range []string{"#rooms", "#online", "#invite"} {
			look[any](ada, "void document.querySelectorAll('[popover]').forEach(p => p.hidePopover())")
			look[any](ada, fmt.Sprintf("one('%s').click()", button))
			ada.want("it is within the column", `(p => p.left >= one('main').getBoundingClientRect().left && p.right <= one('main').getBoundingClientRect().right &&
				p.left >= 8 && p.right <= innerWidth - 8 && p.width > 100)(one(':popover-open').getBoundingClientRect())`)
		}
	}
}

// Who can read is said at the first visit, and then where the rooms are.
func TestWhoCanReadIsSaid(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	const said = "/anyone with the link can read/i.test(document.body.innerText)"
	ada.want("it is said at the first visit", said)
	ada.reload()
	ada.want("it is not said again", "!"+said)
	ada.byRole("button", "Rooms: The lobby").click()
	ada.want("it is said with the rooms", said)
}

// A slow talk shows when it was.
func TestGroups(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	bob.rename("Bob Longname-Hyphenated")
	bob.say(numbered(11, "quick")...)
	ada.wantSaid("Bob Longname-Hyphenated", "quick 11")
	const starts = `JSON.stringify(lines().flatMap((line, i) => line.matches('.grouped') ? [] : i)) === `
	ada.want("ten lines are a group", starts+"'[0,10]'")
	ada.want("a name does not stretch a short text", `lines()[10].querySelector('.text').offsetWidth < lines()[10].querySelector('.who').offsetWidth &&
		lines()[10].querySelector('time').getBoundingClientRect().left < lines()[10].querySelector('.text').getBoundingClientRect().right + 20`)

	ada.must(call(ada, emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: true}))
	ada.want("on a touch screen only the last of a group shows its time", `JSON.stringify(lines().flatMap((line, i) =>
		getComputedStyle(line.querySelector('time')).opacity === '1' ? i : [])) === '[9,10]'`)

	// A line every two minutes, by a server whose clock is that fast.
	var texts []string
	talk := talkAt(t, 2*time.Minute, 6, &texts)
	eve := open(t, talk)
	eve.wantLines(texts...)
	eve.want("five minutes after its first line a group ends", starts+"'[0,3]'")
}

// What else is small.

func TestLastLineAgain(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.say("one\n  two")
	ada.write("x")
	ada.press("ArrowUp")
	if got := ada.box().value(); got != "x" {
		t.Errorf("with something in the box, the arrow makes it %q", got)
	}
	ada.box().selectAll()
	ada.press("Backspace")
	ada.press("ArrowUp")
	if got := ada.box().value(); got != "one\n  two" {
		t.Errorf("the box holds %q", got)
	}
	if at := look[[]int](ada, "[one('#message').selectionStart, one('#message').selectionEnd]"); at[0] != 9 || at[1] != 9 {
		t.Errorf("the cursor is at %v, want it at the end", at)
	}
	ada.press("Enter")
	bob.want("it is said again", "JSON.stringify("+rawTexts+") === JSON.stringify("+quoted([]string{"one\n  two", "one\n  two"})+")")
}

// A file gets a word, and never takes the place of the page.
func TestFilesGetAWord(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	for _, event := range []string{"new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true })",
		"new ClipboardEvent('paste', { clipboardData: files, bubbles: true, cancelable: true })"} {
		for _, where := range []string{"#message", "#log"} {
			ada.box().selectAll()
			ada.insert("x")
			ada.want("no word yet", `!/files/i.test(one('main form').innerText)`)
			ada.want("the browser does nothing with it", fmt.Sprintf(`(() => {
				const files = new DataTransfer();
				files.items.add(new File(['x'], 'x.png'));
				return !one('%s').dispatchEvent(%s);
			})()`, where, event))
			ada.want("a word", `/files cannot be sent/i.test(one('main form').innerText)`)
		}
	}
	ada.want("text is text", `(() => {
		const text = new DataTransfer();
		text.setData('text/plain', 'x');
		return one('#message').dispatchEvent(new DragEvent('drop', { dataTransfer: text, bubbles: true, cancelable: true }));
	})()`)
}

// A refused room name proposes one that works.
func TestRoomNameIsProposed(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.byRole("button", "Rooms: The lobby").click()
	look[any](ada, "one('#wanted').focus()")
	ada.insert("Our team, 2026!")
	ada.press("Enter")
	ada.byRole("link", "our-team-2026").click()
	ada.writing = element{}
	ada.want("the room", "new URLSearchParams(location.search).get('room') === 'our-team-2026'")
	ada.wantConnected()

	ada.visit("http://" + ada.line.addr + "/?room=" + strings.Repeat("x", 30) + "%20%20%20yes")
	ada.byRole("link", strings.Repeat("x", 30)+"-y").click()
	ada.writing = element{}
	ada.wantConnected()
}

// What went wrong looks so, and the way out of it does not look more important than to send.
func TestErrorsLookLikeErrors(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.write(strings.Repeat("x", 5000))
	ada.want("a warning in its own colour, weight and sign", `(style => style.color !== getComputedStyle(one('#length-hint')).color &&
		style.fontWeight >= 600)(getComputedStyle(one('#length-warning'))) && /⚠/.test(getComputedStyle(one('#length-warning'), '::before').content)`)
	ada.want("the box has its colour", `getComputedStyle(one('#message')).borderColor === getComputedStyle(one('#length-warning')).color`)
	ada.line.cut()
	ada.want("Try now is quieter than Send", `visible(one('#try-now')) && getComputedStyle(one('#try-now')).backgroundColor === 'rgba(0, 0, 0, 0)' &&
		getComputedStyle(one('main form button')).backgroundColor !== 'rgba(0, 0, 0, 0)'`)
	ada.want("the connection stands out", `getComputedStyle(one('.connection')).backgroundColor !== getComputedStyle(document.body).backgroundColor`)
}

// When the browser says that there is no network, the page believes it at once.
func TestOfflineIsBelieved(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.line.swallowAnswers()
	look[any](ada, "dispatchEvent(new Event('offline'))")
	ada.want("at once", "/no connection/i.test(statusText()) && visible(one('#try-now'))")
	ada.say("kept")
	ada.wantState("kept", "waiting|sent")
	ada.line.mend()
	ada.line.interrupt()
	ada.wake()
	ada.wantState("kept", "back")
}

// The page says what it is to those who read only its head, and to a browser without scripts.
func TestHead(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.want("a description", "one('meta[name=description]').content.length > 20")
	ada.want("the colour of the background", `[...document.querySelectorAll('meta[name=theme-color]')].length === 2`)
	ada.must(call(ada, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	ada.visit(ada.url)
	if !look[bool](ada, `/needs JavaScript/.test(document.body.innerText) && !visible(one('textarea'))`) {
		t.Error("it should say that it needs JavaScript, and show nothing that would not work")
	}
}

// An input method's Enter and arrows are its own.
func TestComposingKeepsItsKeys(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.say("before")
	ada.box().focus()
	ada.compose("に")
	ada.must(call(ada, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: "ArrowUp", Code: "ArrowUp", WindowsVirtualKeyCode: 38}))
	if got := ada.box().value(); strings.Contains(got, "before") {
		t.Errorf("the box holds %q", got)
	}
}

// talkAt starts a server with a page and nothing but a talk whose lines are so far apart, and returns its address.
func talkAt(t *testing.T, apart time.Duration, lines int, texts *[]string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "../home.html") })
	*texts = numbered(lines, "slow")
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{Subprotocols: []string{"chat.v1"}}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		conn.WriteJSON(map[string]any{"type": "hello", "room": "", "name": "guest", "from": "0123456789abcdef", "max": 4096, "id": lines, "missed": false})
		at := time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)
		for i, text := range *texts {
			conn.WriteJSON(map[string]any{"type": "message", "id": i + 1, "time": at.Add(time.Duration(i) * apart).Format(time.RFC3339),
				"from": "fedcba9876543210", "name": "Bob", "text": text})
		}
		conn.ReadMessage() // until the page has hung up
	})
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	return web.URL
}
