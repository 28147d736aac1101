package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/css"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// One Chromium serves all tests. Each person has a browser context of their own in
// it, and so a storage of their own.

// browsers are the names under which a Chromium may be on the PATH.
var browsers = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

var (
	stopChromium = func() {}
	chromium     = sync.OnceValues(startChromium)
)

func startChromium() (context.Context, error) {
	path := ""
	for _, name := range browsers {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		return nil, errors.New("no browser: install Chromium so that it is on the PATH (on Debian: apt-get install chromium)")
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // which root cannot have
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.IgnoreCertErrors,
		chromedp.Flag("host-resolver-rules", "MAP chat.test 127.0.0.1"),
		chromedp.Flag("lang", "en-GB"),
		chromedp.WindowSize(1024, 720),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	// The browser may be newer than what the library knows of it; what it cannot read does not concern us.
	ctx, _ = chromedp.NewContext(ctx, chromedp.WithErrorf(log.Printf))
	if err := chromedp.Do(ctx); err != nil {
		stop()
		return nil, fmt.Errorf("%s does not start: %v", path, err)
	}
	stopChromium = func() {
		chromedp.Cancel(ctx) // it may be gone already
		stop()
	}
	return ctx, nil
}

// tab is a tab with the page of a chat.
type tab struct {
	t      *testing.T
	number int // of the tabs in this test
	ctx    context.Context
	close  func()
	url    string
	line   *line // nil if the test has another way to the server

	writing element // the box, once it is found on this page
}

// open lets a new person come, by a line of their own.
func (c *chat) open() *tab {
	c.t.Helper()
	l := newLine(c.t, c.addr)
	p := newPerson(c.t)
	p.line = l
	p.visit("http://" + l.addr + "/")
	p.wantConnected()
	return p
}

// newPerson returns an empty tab of somebody who has not been here before.
func newPerson(t *testing.T) *tab {
	t.Helper()
	browser, err := chromium()
	if err != nil {
		t.Fatal(err)
	}
	return newTab(t, browser, chromedp.WithNewBrowserContext())
}

// anotherTab opens the page once more, for the same person.
func (p *tab) anotherTab() *tab {
	p.t.Helper()
	other := newTab(p.t, p.ctx)
	other.line = p.line
	other.visit(p.url)
	other.wantConnected()
	return other
}

var tabs = make(map[*testing.T]int) // how many each test has opened

func newTab(t *testing.T, parent context.Context, options ...chromedp.ContextOption) *tab {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(parent, options...)
	tabs[t]++
	p := &tab{t: t, number: tabs[t], ctx: ctx, close: closeTab}
	// chromedp mirrors documents and styles, which would slow the page down; we do not need them.
	err := chromedp.Do(ctx)
	for _, do := range []func() error{
		func() error { return call(p, css.Disable, cdp.Empty{}) },
		func() error { return call(p, dom.Disable, cdp.Empty{}) },
		func() error { return call(p, network.Disable, cdp.Empty{}) },
		func() error {
			return call(p, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
		},
	} {
		if err == nil {
			err = do()
		}
	}
	if err != nil {
		t.Fatalf("opening a tab: %v", err)
	}
	var mu sync.Mutex
	var wrong []string
	chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch event := event.(type) {
		case *runtime.EventExceptionThrown:
			wrong = append(wrong, (&chromedp.ExceptionError{ExceptionDetails: event.ExceptionDetails}).Error())
		case *cdplog.EventEntryAdded:
			if event.Entry.Source == cdplog.EntrySourceSecurity || strings.Contains(event.Entry.Text, "Content Security Policy") {
				wrong = append(wrong, event.Entry.Text)
			}
		}
	})
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, w := range wrong {
			t.Errorf("the page of tab %d went wrong: %s", p.number, w)
		}
		if t.Failed() {
			p.show()
		}
		closeTab()
	})
	return p
}

// call sends a command of the DevTools protocol whose answer does not matter.
func call[P, R any](p *tab, command cdp.Command[P, R], params P) error {
	_, err := chromedp.Call(p.ctx, command, params)
	return err
}

// must fails the test if err is one.
func (p *tab) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("tab %d: %v", p.number, err)
	}
}

// visit opens an address.
func (p *tab) visit(url string) {
	p.t.Helper()
	p.url, p.writing = url, element{}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	p.must(chromedp.Do(ctx, chromedp.Navigate(url)))
}

func (p *tab) reload() {
	p.t.Helper()
	p.writing = element{}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	p.must(chromedp.Do(ctx, chromedp.Reload()))
	p.wantConnected()
}

// glance is what an expression can use to look at the page.
const glance = `
const one = selector => document.querySelector(selector);
const log = () => one('[role="log"][aria-label="Chat"], #log');
const all = selector => [...log().querySelectorAll(selector)];
const textOf = element => element?.textContent.trim() ?? null;
const visible = element => Boolean(element?.checkVisibility());
const lines = () => all('.line:not(.note, .day)');
const texts = () => lines().map(line => textOf(line.querySelector('.text')));
const notes = () => all('.note').map(textOf);
const statusText = () => textOf(one('[role="status"]'));
const fromEnd = () => log().scrollHeight - log().scrollTop - log().clientHeight;
`

// look returns the value of a JavaScript expression, which may be a promise.
func look[T any](p *tab, expression string) T {
	p.t.Helper()
	value, err := evaluate[T](p, expression)
	if err != nil {
		p.t.Fatalf("tab %d: %s: %v", p.number, expression, err)
	}
	return value
}

func evaluate[T any](p *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience+10*time.Second)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](
		"(() => {"+glance+"return (\n"+expression+"\n);})()", chromedp.EvalAwaitPromise))
}

// soon reports whether an expression becomes true within patience. It looks
// whenever the document changes, and often enough besides. A link that was clicked
// before may open another page meanwhile: then it looks there.
func (p *tab) soon(expression string) bool {
	p.t.Helper()
	promise := `new Promise(resolve => {
		const { setInterval, setTimeout } = window.unhurried ?? window;
		const done = answer => {
			observer.disconnect();
			clearInterval(often);
			clearTimeout(late);
			resolve(answer);
		};
		const check = () => { if (` + expression + `) done(true); };
		const observer = new MutationObserver(check);
		observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
		const often = setInterval(check, 50);
		const late = setTimeout(() => done(false), ` + strconv.FormatInt(patience.Milliseconds(), 10) + `);
		check();
	})`
	for begin := time.Now(); ; {
		is, err := evaluate[bool](p, promise)
		if err == nil {
			return is
		}
		if !strings.Contains(err.Error(), "navigated") || time.Since(begin) > patience {
			p.t.Fatalf("tab %d: %s: %v", p.number, expression, err)
		}
	}
}

// want fails the test unless an expression becomes true in time.
func (p *tab) want(what, expression string) {
	p.t.Helper()
	if !p.soon(expression) {
		p.t.Fatalf("tab %d: %s: still not so after %v", p.number, what, patience)
	}
}

// quoted returns a value as JavaScript spells it.
func quoted(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // of the test's own strings
	}
	return string(text)
}

// wantLines fails the test unless these messages, and no others, are in the log, in
// this order.
func (p *tab) wantLines(texts ...string) {
	p.t.Helper()
	texts = append([]string{}, texts...) // for JSON, none is not null
	if !p.soon("JSON.stringify(texts()) === JSON.stringify(" + quoted(texts) + ")") {
		p.t.Fatalf("tab %d shows %s", p.number, difference(look[[]string](p, "texts()"), texts))
	}
}

// difference says where two lists part.
func difference(got, want []string) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	return fmt.Sprintf("%d lines, want %d; from the line %d on it shows\n%s\nwant\n%s", len(got), len(want), i+1, some(got[i:]), some(want[i:]))
}

func some(lines []string) string {
	more := ""
	if len(lines) > 20 {
		lines, more = lines[:20], "…"
	}
	return fmt.Sprintf("%q%s", lines, more)
}

// wantSaid fails the test unless the log has a message by someone of that name.
func (p *tab) wantSaid(name, text string) {
	p.t.Helper()
	p.want(fmt.Sprintf("%s says %q", name, text), `lines().some(line =>
		line.querySelector('.who').textContent.includes(`+quoted(name)+`) && textOf(line.querySelector('.text')) === `+quoted(text)+`)`)
}

// wantState fails the test unless the tab's own message is in a state: waiting,
// sent, unsure, refused or back, or one of several with | between them.
func (p *tab) wantState(text, state string) {
	p.t.Helper()
	p.want(fmt.Sprintf("%q is %s", text, state), `lines().some(line =>
		line.matches('.own') && /^(`+state+`)$/.test(line.dataset.state) && textOf(line.querySelector('.text')) === `+quoted(text)+`)`)
}

// wantNote fails the test unless the page itself has said something that matches.
func (p *tab) wantNote(pattern string) {
	p.t.Helper()
	p.want("a note that says "+pattern, "notes().some(note => /"+pattern+"/i.test(note))")
}

// wantStatus fails the test unless the status matches.
func (p *tab) wantStatus(pattern string) {
	p.t.Helper()
	p.want("the status says "+pattern, "/"+pattern+"/i.test(statusText())")
}

func (p *tab) wantConnected() {
	p.t.Helper()
	p.want("Connected", "statusText() === 'Connected'")
}

// wantOnline fails the test unless the page says that so many people are here.
func (p *tab) wantOnline(count int) {
	p.t.Helper()
	p.want(fmt.Sprintf("%d online", count), fmt.Sprintf(`parseInt(textOf(one('#online'))) === %d`, count))
}

// wantNames fails the test unless exactly these people are here, in any order. Two of
// one name are two.
func (p *tab) wantNames(names ...string) {
	p.t.Helper()
	slices.Sort(names)
	p.want(fmt.Sprintf("%q are here", names), `JSON.stringify([...document.querySelectorAll('#names li bdi')].map(textOf).sort()) === JSON.stringify(`+quoted(names)+`)`)
}

// element is something on the page, found as people and screen readers find it.
type element struct {
	tab      *tab
	describe string
	id       runtime.RemoteObjectID
}

// byRole returns the one element that has a role and a name, when it is there to be used.
func (p *tab) byRole(role, name string) element {
	p.t.Helper()
	document, err := chromedp.Call(p.ctx, runtime.Evaluate, runtime.EvaluateParams{Expression: "document"})
	p.must(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		found, err := chromedp.Call(p.ctx, accessibility.QueryAXTree, accessibility.QueryAXTreeParams{
			ObjectID: document.Result.ObjectID, Role: role, AccessibleName: name,
		})
		p.must(err)
		nodes := slices.DeleteFunc(found.Nodes, func(n *accessibility.Node) bool { return n.Ignored })
		if len(nodes) == 1 {
			node, err := chromedp.Call(p.ctx, dom.ResolveNode, dom.ResolveNodeParams{BackendNodeID: nodes[0].BackendDOMNodeID})
			p.must(err)
			return element{p, fmt.Sprintf("%s %q", role, name), node.Object.ObjectID}
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("tab %d: there are %d of: %s %q", p.number, len(nodes), role, name)
		}
	}
}

// do calls a JavaScript function with the element as this.
func do[T any](e element, function string) T {
	e.tab.t.Helper()
	value, err := chromedp.Run(e.tab.ctx, chromedp.CallFunctionOn[T](function,
		func(params *runtime.CallFunctionOnParams) { params.ObjectID = e.id }))
	if err != nil {
		e.tab.t.Fatalf("tab %d: %s: %v", e.tab.number, e.describe, err)
	}
	return value
}

// click clicks on the middle of the element, with a mouse.
func (e element) click() {
	e.tab.t.Helper()
	at := do[[]float64](e, `function () {
		this.scrollIntoView({ block: 'nearest' });
		const box = this.getBoundingClientRect();
		return [box.x + box.width / 2, box.y + box.height / 2];
	}`)
	e.tab.clickAt(at[0], at[1])
}

// clickAt clicks on a place on the screen, with a mouse.
func (p *tab) clickAt(x, y float64) {
	p.t.Helper()
	for _, what := range []input.DispatchMouseEventType{input.DispatchMouseEventTypeMousePressed, input.DispatchMouseEventTypeMouseReleased} {
		p.must(call(p, input.DispatchMouseEvent, input.DispatchMouseEventParams{
			Type: what, X: x, Y: y, Button: input.MouseButtonLeft, ClickCount: 1,
		}))
	}
}

func (e element) focus() element {
	e.tab.t.Helper()
	do[chromedp.Void](e, `function () { this.focus(); }`)
	return e
}

// selectAll has what is typed next replace what is there.
func (e element) selectAll() element {
	e.tab.t.Helper()
	do[chromedp.Void](e, `function () { this.focus(); this.select(); }`)
	return e
}

func (e element) value() string {
	e.tab.t.Helper()
	return do[string](e, `function () { return this.value; }`)
}

// box is the box one writes in. It is looked for once per page: to do it makes
// the browser think of everything that is shown.
func (p *tab) box() element {
	p.t.Helper()
	if p.writing.tab == nil {
		p.writing = p.byRole("textbox", "Message")
	}
	return p.writing
}

// insert puts text where the cursor is, as a paste does.
func (p *tab) insert(text string) {
	p.t.Helper()
	p.must(call(p, input.InsertText, input.InsertTextParams{Text: text}))
}

func (p *tab) press(key string) {
	p.t.Helper()
	codes := map[string]int64{"ArrowUp": 38, "Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36}
	text := ""
	if key == "Enter" {
		text = "\r"
	}
	for _, what := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
		p.must(call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{
			Type: what, Key: key, Code: key, Text: text, WindowsVirtualKeyCode: codes[key],
		}))
	}
}

// write puts text into the box, after what is there, and leaves it there.
func (p *tab) write(text string) {
	p.t.Helper()
	p.box().focus()
	p.insert(text)
}

// say writes lines and sends each with Enter.
func (p *tab) say(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		p.write(text)
		p.press("Enter")
	}
	if left := p.box().value(); left != "" {
		p.t.Fatalf("tab %d: %q is still in the box", p.number, left)
	}
}

// wake tells the page that there is a network again.
func (p *tab) wake() {
	p.t.Helper()
	look[chromedp.Void](p, "dispatchEvent(new Event('online'))")
}

// rename takes another name.
func (p *tab) rename(name string) {
	p.t.Helper()
	p.byRole("textbox", "Your name").selectAll()
	p.insert(name)
	p.press("Enter")
}

// scroll turns the mouse's wheel over the log, and returns when it has come to rest; up is negative.
func (p *tab) scroll(pixels float64) {
	p.t.Helper()
	at := do[[]float64](p.byRole("log", "Chat"), `function () {
		const box = this.getBoundingClientRect();
		return [box.x + box.width / 2, box.y + box.height / 2];
	}`)
	p.must(call(p, input.SynthesizeScrollGesture, input.SynthesizeScrollGestureParams{
		X: at[0], Y: at[1], YDistance: -pixels, Speed: 8000, GestureSourceType: input.GestureSourceTypeMouse,
	}))
}

// device makes the tab's window that of a phone or a desk, and its colours light or dark.
func (p *tab) device(width, height int64, phone bool, scheme string) {
	p.t.Helper()
	scale := 1.0
	if phone {
		scale = 2
	}
	p.must(call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: scale, Mobile: phone,
	}))
	p.must(call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme},
		{Name: "prefers-reduced-motion", Value: "reduce"},
	}}))
}

// picture saves what the tab shows.
func (p *tab) picture(file string) error {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	shot, err := chromedp.Call(ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, shot.Data, 0o644)
}

// drawn returns a picture of an element.
func (p *tab) drawn(element string) image.Image {
	p.t.Helper()
	box := look[[]float64](p, "(box => [box.x, box.y, box.width, box.height])(("+element+").getBoundingClientRect())")
	shot, err := chromedp.Call(p.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{
		Clip: &page.Viewport{X: box[0], Y: box[1], Width: box[2], Height: box[3], Scale: 1},
	})
	p.must(err)
	picture, err := png.Decode(bytes.NewReader(shot.Data))
	p.must(err)
	return picture
}

// show tells what the tab shows, for a test that has failed.
func (p *tab) show() {
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	said, err := chromedp.Run(ctx, chromedp.Evaluate[string](`(() => {`+glance+`
		const shown = log() ? [...log().children].slice(-30).map(line => '  ' + line.innerText.replace(/\s+/g, ' ') +
			(line.dataset.state ? ' [' + line.dataset.state + ']' : '') + (line.matches('.note') ? ' [note]' : '')) : [];
		return [location.href, statusText(), ...shown].join('\n');
	})()`))
	if err != nil {
		said = err.Error()
	}
	file := filepath.Join(os.TempDir(), "chat-e2e", fmt.Sprintf("%s-%d.png", filepath.Base(p.t.Name()), p.number))
	if err := p.picture(file); err != nil {
		file = err.Error()
	}
	p.t.Logf("tab %d shows (%s):\n%s", p.number, file, said)
}

// compose has an input method show a text that is not yet chosen.
func (p *tab) compose(text string) {
	p.t.Helper()
	end := int64(len([]rune(text)))
	p.must(call(p, input.ImeSetComposition, input.ImeSetCompositionParams{Text: text, SelectionStart: end, SelectionEnd: end}))
}

// hide puts the tab out of sight, or back into it, as far as the page can tell.
func (p *tab) hide(hidden bool) {
	p.t.Helper()
	look[chromedp.Void](p, fmt.Sprintf(`(() => {
		Object.defineProperty(document, 'hidden', { configurable: true, get: () => %v });
		Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => document.hidden ? 'hidden' : 'visible' });
		document.dispatchEvent(new Event('visibilitychange'));
	})()`, hidden))
}

// hurry lets time pass so many times as fast for the page, from now on: what it
// waits for, and what its clock says.
func (p *tab) hurry(times int) {
	p.t.Helper()
	look[chromedp.Void](p, fmt.Sprintf(`(() => {
		window.unhurried = { setTimeout: window.setTimeout.bind(window), setInterval: window.setInterval.bind(window) };
		const { setTimeout, setInterval } = unhurried, { now } = Date, begin = now();
		window.setTimeout = (f, ms = 0, ...rest) => setTimeout(f, ms / %[1]d, ...rest);
		window.setInterval = (f, ms = 0, ...rest) => setInterval(f, ms / %[1]d, ...rest);
		Date.now = () => begin + (now() - begin) * %[1]d;
	})()`, times))
}
