package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/ratelog"
)

// The chat.v1 wire: what its clients are told, and that they can be cut off, come back,
// and have missed nothing and said nothing twice.

// event is any object the server sends on chat.v1.
type event struct {
	Type   string   `json:"type"`
	Room   *string  `json:"room"`
	Name   string   `json:"name"`
	From   string   `json:"from"`
	Max    int      `json:"max"`
	ID     int64    `json:"id"`
	Missed bool     `json:"missed"`
	Time   string   `json:"time"`
	Text   string   `json:"text"`
	Ref    string   `json:"ref"`
	Count  int      `json:"count"`
	Names  []string `json:"names"`
}

// tab is a client on chat.v1 that reads all the time, as a page does.
type tab struct {
	t    *testing.T
	conn *websocket.Conn

	mu     sync.Mutex
	frames []string
	events []event // not yet taken
	err    error
}

// open connects a tab; query is that of /ws.
func (c *chat) open(query string) *tab {
	c.t.Helper()
	tab, err := c.dialTab(query)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { tab.conn.Close() })
	synctest.Wait()
	return tab
}

func (c *chat) dialTab(query string) (*tab, error) {
	dialer := websocket.Dialer{NetDialContext: c.network.dial, Subprotocols: []string{"chat.v1"}}
	conn, _, err := dialer.Dial("ws://chat.test/ws?"+query, nil)
	if err != nil {
		return nil, err
	}
	if conn.Subprotocol() != "chat.v1" {
		c.t.Errorf("the server answers with subprotocol %q", conn.Subprotocol())
	}
	tab := &tab{t: c.t, conn: conn}
	go tab.listen()
	return tab, nil
}

func (p *tab) listen() {
	for {
		_, frame, err := p.conn.ReadMessage()
		p.mu.Lock()
		if err != nil {
			p.err = err
			p.mu.Unlock()
			p.conn.Close()
			return
		}
		if len(frame) > maxFrame {
			p.t.Errorf("a frame of %d bytes", len(frame))
		}
		p.frames = append(p.frames, string(frame))
		for line := range strings.SplitSeq(string(frame), "\n") {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				p.t.Errorf("%.100q: %v", line, err)
			}
			p.events = append(p.events, e)
		}
		p.mu.Unlock()
	}
}

// say sends a text marked with a ref ("" for none).
func (p *tab) say(text, ref string) {
	p.t.Helper()
	frame, _ := json.Marshal(map[string]string{"text": text, "ref": ref})
	p.send(string(frame))
}

// send sends a frame as it is.
func (p *tab) send(frame string) {
	p.t.Helper()
	if err := p.conn.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		p.t.Errorf("send: %v", err)
	}
}

// markWritten returns the events since it was last asked, of one type or (type "") all.
func (p *tab) take(kind string) []event {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var taken, left []event
	for _, e := range p.events {
		if kind == "" || e.Type == kind {
			taken = append(taken, e)
		} else {
			left = append(left, e)
		}
	}
	p.events = left
	return taken
}

// hello returns what the tab was told first.
func (p *tab) hello() event {
	p.t.Helper()
	hellos := p.take("hello")
	if len(hellos) != 1 {
		p.t.Fatalf("%d hellos", len(hellos))
	}
	return hellos[0]
}

// want fails the test unless exactly these texts were heard since the last want.
func (p *tab) want(texts ...string) {
	p.t.Helper()
	var heard []string
	for _, e := range p.take("message") {
		heard = append(heard, e.Text)
	}
	if !slices.Equal(heard, texts) {
		p.t.Errorf("heard %.200q\nwant  %.200q", heard, texts)
	}
}

func (p *tab) wantClosed(code int) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var closed *websocket.CloseError
	if !errors.As(p.err, &closed) || closed.Code != code || closed.Text == "" {
		p.t.Errorf("ended with %v, want %d", p.err, code)
	}
}

// Both wires, byte by byte: what somebody sends, and what each kind of client gets. On
// fake time it is midnight of 2000-01-01, so ids begin there; the from is the speaker's own.
func TestBothWires(t *testing.T) {
	const start = 946684800000000
	for _, row := range []struct {
		what, query string // of the one who speaks, on chat.v1; "classic" for the other wire
		send        string
		classic, v1 string // "" for nothing
	}{
		{"a text", "", `{"text":"hello"}`,
			`hello`, `"name":"guest","text":"hello"}`},
		{"a text from somebody with a name", "name=Ada", `{"text":"hello"}`,
			`Ada: hello`, `"name":"Ada","text":"hello"}`},
		{"a ref", "", `{"text":"hello","ref":"a1"}`,
			`hello`, `"name":"guest","text":"hello","ref":"a1"}`},
		{"fields nobody knows", "", ` {"text":"hello","color":"red","ref":null}`,
			`hello`, `"name":"guest","text":"hello"}`},
		{"markup", "name=<i>", `{"text":"<b>&amp;</b>"}`,
			`<i>: <b>&amp;</b>`, `"name":"<i>","text":"<b>&amp;</b>"}`},
		{"quotes and backslashes", `name="\`, `{"text":"\"\\"}`,
			`"\: "\`, `"name":"\"\\","text":"\"\\"}`},
		{"line breaks and controls", "", `{"text":"one\ntwo\u0000\u2028\u0085three\t"}`,
			`one two   three`, `"name":"guest","text":"one two   three"}`},
		{"escapes", "", `{"text":"\u0063af\u00e9 \ud83d\ude00 \ud83d"}`,
			"café 😀 \ufffd", "\"name\":\"guest\",\"text\":\"café 😀 \ufffd\"}"},
		{"other scripts", "name=%D7%A2%D7%93%D7%94", `{"text":"שלום"}`,
			`עדה: שלום`, `"name":"עדה","text":"שלום"}`},
		{"a blank text", "", `{"text":" \n "}`, ``, ``},
		{"no text", "", `{"ref":"a1"}`, ``, ``},
		{"from the classic wire", "classic", `hello`,
			`hello`, `"name":"guest","text":"hello"}`},
		{"from there, with a name", "classic&name=Ada", `{"text":"hello"}`,
			`Ada: {"text":"hello"}`, `"name":"Ada","text":"{\"text\":\"hello\"}"}`},
	} {
		t.Run(row.what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				chat := startChat(t)
				ada, v1 := chat.join(""), chat.open("name=witness")
				v1.take("")
				v1.frames = nil
				var from string
				if name, ok := strings.CutPrefix(row.query, "classic"); ok {
					chat.join(strings.TrimPrefix(name, "&name=")).say(row.send)
				} else {
					speaker := chat.open(strings.NewReplacer(`"`, "%22", `\`, "%5c", "<", "%3c", ">", "%3e").Replace(row.query))
					from = speaker.hello().From
					speaker.send(row.send)
				}
				if row.classic == "" {
					ada.want()
					v1.want()
					return
				}
				ada.want(row.classic)
				messages := v1.take("message")
				if len(messages) != 1 {
					t.Fatalf("%d messages", len(messages))
				}
				if from == "" {
					from = messages[0].From
				}
				want := fmt.Sprintf(`{"type":"message","id":%d,"time":"2000-01-01T00:00:00.000Z","from":"%s",%s`, start+1, from, row.v1)
				if got := v1.frames[len(v1.frames)-1]; got != want {
					t.Errorf("on chat.v1\n%s, want\n%s", got, want)
				}
			})
		})
	}
}

// Long texts that grow on the wire arrive whole, or not at all where nothing is left of
// them; listen checks the length of every frame.
func TestLongTexts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.open("name=Ada"), chat.join("")
		for _, letter := range []string{`"`, `\`, "<", "é"} {
			text := strings.Repeat(letter, maxText/len(letter))
			ada.say(text, strings.Repeat("\x01", maxClientMsgID-len(letter))+letter)
			ada.want(text)
			bob.want("Ada: " + text)
		}
		ada.send(`{"text":"` + strings.Repeat(`\u0000`, maxText) + `"}`)
		ada.send(`{"text":"` + strings.Repeat(`\u0000`, maxText-1) + `."}`)
		ada.want(".")
		bob.want("Ada: .")
	})
}

func TestBadJSON(t *testing.T) {
	for _, bad := range []struct {
		what, send string
		code       int
	}{
		{"no JSON", `hello`, 1008},
		{"nothing", ``, 1008},
		{"an array", `["text"]`, 1008},
		{"a string", `"text"`, 1008},
		{"null", `null`, 1008},
		{"half an object", `{"text":"hello"`, 1008},
		{"two objects", `{"text":"hello"}{"text":"hello"}`, 1008},
		{"a text that is a number", `{"text":1}`, 1008},
		{"a ref that is an object", `{"text":"hello","ref":{}}`, 1008},
		{"a ref too long", `{"text":"hello","ref":"` + strings.Repeat("x", maxClientMsgID+1) + `"}`, 1008},
		{"nested too deep", strings.Repeat(`{"text":`, 4000), 1008},
		{"a text too long", `{"text":"` + strings.Repeat("x", maxText+1) + `"}`, 1009},
		{"a frame too long", `{"text":"hello","more":"` + strings.Repeat("x", maxClientFrame) + `"}`, 1009},
		{"not UTF-8", "{\"text\":\"\xff\"}", 1007},
	} {
		t.Run(bad.what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				chat := startChat(t)
				ada, rogue := chat.open(""), chat.open("")
				rogue.send(bad.send)
				rogue.wantClosed(bad.code)
				ada.say("still here", "")
				ada.want("still here")
			})
		})
	}
}

// Who asks for a subprotocol that is not known here gets the classic wire.
func TestSubprotocols(t *testing.T) {
	for asked, want := range map[string]string{
		"":                   "",
		"chat.v2":            "",
		"CHAT.V1":            "",
		"chat.v1":            "chat.v1",
		"chat.v2, chat.v1":   "chat.v1",
		"chat.v1,superchat ": "chat.v1",
	} {
		bubble(t, func(t *testing.T) {
			chat := startChat(t)
			resp, _ := chat.ask(handshakeFor("/ws", asked))
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); resp.StatusCode != http.StatusSwitchingProtocols || got != want {
				t.Errorf("%q is answered with %s and %q, want %q", asked, resp.Status, got, want)
			}
		})
	}
}

func TestHello(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.open("name=+Ada%0a&key=k1").hello()
		if ada.Room == nil || *ada.Room != "" || ada.Name != "Ada" || ada.Max != 4096 || ada.Missed || len(ada.From) != 16 {
			t.Errorf("%+v", ada)
		}
		again, other := chat.open("name=Ada&key=k1").hello(), chat.open("name=Ada&key=k2").hello()
		if again.From != ada.From || other.From == ada.From {
			t.Error("from does not tell keys apart")
		}
		nobody, nobodyElse := chat.open("").hello(), chat.open("").hello()
		if nobody.Name != "guest" || nobody.From == nobodyElse.From {
			t.Error("from does not tell apart those without a key")
		}
	})
	bubble(t, func(t *testing.T) {
		a, b := newServer(nil, 0, 1), newServer(nil, 0, 1)
		if a.userID("k1") == b.userID("k1") {
			t.Error("from is the same on every server")
		}
	})
}

// A newcomer is told the last of what was said, one that comes back all that it has
// missed, and then what is said from then on.
func TestHistory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.join("Ada")
		empty := chat.open("").hello()
		var said []string
		say := func() {
			said = append(said, fmt.Sprint("line ", len(said)))
			ada.say(said[len(said)-1])
			synctest.Wait()
		}
		for range 120 {
			say()
		}
		newcomer := chat.open("")
		newcomer.want(said[70:]...)
		if last := newcomer.hello().ID; last <= empty.ID {
			t.Errorf("the last id is %d, and was %d in an empty room", last, empty.ID)
		}

		back := chat.open(fmt.Sprint("after=", empty.ID))
		back.want(said...)
		if back.hello().Missed {
			t.Error("has missed something")
		}
		middle := chat.open(fmt.Sprint("after=", empty.ID))
		resumed := chat.open(fmt.Sprint("after=", middle.take("message")[99].ID))
		resumed.want(said[100:]...)
		say()
		resumed.want(said[120:]...)
		newcomer.want(said[120:]...)

		for range historyMessages {
			say()
		}
		late := chat.open(fmt.Sprint("after=", empty.ID))
		late.want(said[len(said)-historyMessages:]...)
		if !late.hello().Missed {
			t.Error("has not missed anything?")
		}
	})
}

// What is kept is bounded in bytes, too.
func TestHistoryBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.open("")
		begin := ada.hello().ID
		text := strings.Repeat(`"`, maxText)
		for range 100 {
			ada.say(text, "")
			ada.want(text)
		}
		late := chat.open(fmt.Sprint("after=", begin))
		size, n := 0, 0
		for _, e := range late.take("message") {
			size += len(encode(e.Text))
			n++
		}
		if size > historyBytes || size < historyBytes*9/10 {
			t.Errorf("%d messages of %d bytes are kept", n, size)
		}
	})
}

func TestAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.open("")
		begin := ada.hello().ID
		ada.say("hello", "")
		last := ada.take("message")[0].ID
		for after, want := range map[string]struct {
			missed bool
			heard  int
		}{
			"":                         {false, 1},
			fmt.Sprint(last):           {false, 0},
			fmt.Sprint(last - 1):       {false, 1},
			fmt.Sprint(begin):          {false, 1},
			fmt.Sprint(begin - 1):      {true, 1}, // of a server before this one
			"0":                        {true, 1},
			fmt.Sprint(last + 1):       {true, 1}, // the clock was set back
			"-1":                       {true, 1},
			"9223372036854775807":      {true, 1},
			"99999999999999999999999":  {true, 1},
			"yesterday":                {true, 1},
			url.QueryEscape(" 1 or 1"): {true, 1},
		} {
			tab := chat.open("after=" + after)
			if h, heard := tab.hello(), tab.take("message"); h.Missed != want.missed || len(heard) != want.heard || h.ID != last {
				t.Errorf("after=%s: missed %v, %d messages, want %+v", after, h.Missed, len(heard), want)
			}
		}
	})
}

// Ids grow with every message and with time, so that they grow over a restart too.
func TestIDs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		begin := time.Now()
		h := newHistory(begin)
		m := message{sender: new(Client), text: "hello"}
		first := h.lastID
		if first != begin.UnixMicro() || first >= 1<<53 {
			t.Errorf("ids begin at %d", first)
		}
		for i := range int64(3) {
			if id := h.add(m, begin).id; id != first+1+i {
				t.Errorf("the next is %d, want %d", id, first+1+i)
			}
		}
		if id := h.add(m, begin.Add(time.Second)).id; id != first+1_000_000 {
			t.Errorf("a second later it is %d", id)
		}
		if id := h.add(m, begin.Add(-time.Hour)).id; id != first+1_000_001 {
			t.Errorf("with the clock set back it is %d", id)
		}
	})
}

// A line that is sent again, because its sender does not know whether it arrived, is
// said once.
func TestSaidOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada, bob, carl := chat.open("key=ada"), chat.open("key=bob"), chat.join("")
		ada.say("hello", "r1")
		first := ada.take("message")[0]
		bob.want("hello")

		again := chat.open("key=ada&after=" + fmt.Sprint(first.ID)) // another connection of hers
		again.say("hello", "r1")
		answer := again.take("message")
		if len(answer) != 1 || answer[0].ID != first.ID || answer[0].Ref != "r1" {
			t.Errorf("the answer to a repeat is %+v", answer)
		}
		ada.want()
		bob.want()
		carl.want("hello")

		// A clientMsgID is its sender's own: somebody else may use the same.
		bob.say("me too", "r1")
		bob.want("me too")
		ada.want("me too")
		carl.want("me too")

		// Lines and a repeat in one turn of the hub are answered in their order.
		synctest.Wait()
		for i := range 3 {
			ada.say(fmt.Sprint("line ", i), fmt.Sprint("q", i))
			ada.say(fmt.Sprint("line ", i), fmt.Sprint("q", i))
		}
		ada.want("line 0", "line 0", "line 1", "line 1", "line 2", "line 2")
		bob.want("line 0", "line 1", "line 2")

		// Once it is no longer kept, it is news.
		for range historyMessages {
			bob.say("more", "")
		}
		bob.take("message")
		ada.take("message")
		ada.say("hello", "r1")
		bob.want("hello")
	})
}

// One whose queue is full is dropped in the same turn in which it repeats itself.
func TestRepeatOfOneTooSlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		h := newHub(ratelog.New(), newCounters())
		slow := &Client{hub: h, protocol: chatV1, userID: "slow", send: make(chan *batch, 1), done: make(chan struct{})}
		h.admit(slow) // its queue is full: it has not taken the hello
		other := joinHub(h)
		h.broadcast <- message{sender: slow, text: "hello", clientMsgID: "r"}
		h.broadcast <- message{sender: slow, text: "hello", clientMsgID: "r"}
		time.AfterFunc(time.Second, stop)
		h.run(ctx)
		if b := <-other.send; string(b.payloads[classic].text) != "hello" || <-other.send != nil {
			t.Errorf("the other has heard %q, or something more", b.payloads[classic].text)
		}
		if slow.disconnect != slowConsumer {
			t.Errorf("it ended with %v", slow.disconnect)
		}
	})
}

// Answers to repeats are what is kept, not copies of it: those who do not read them
// cost their queues.
func TestRepeatsAreNotCopied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		chat.network.window = 1 << 10
		tabs := make([]*raw, 100)
		for i := range tabs {
			tabs[i] = chat.upgradeTo("/ws?key=k", "chat.v1")
		}
		tabs[0].send(masked(fin|text, `{"text":"`+strings.Repeat(`"`, maxText)+`","ref":"r"}`))
		synctest.Wait()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for _, tab := range tabs {
			tab.send(strings.Repeat(masked(fin|text, `{"text":"x","ref":"r"}`), 90))
			synctest.Wait()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / int64(len(tabs)); each > 90*maxText/4 {
			t.Errorf("the answers to one cost %d bytes", each)
		}
	})
}

// One that was dropped as too slow comes back and has missed nothing.
func TestTooSlowComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.join("")
		chat.network.window = 1 << 10
		slow := chat.upgradeTo("/ws?key=k", "chat.v1")
		var said []string
		for i := range queueSize + 10 {
			said = append(said, fmt.Sprint("line ", i))
			ada.say(said[i])
			synctest.Wait()
		}
		chat.wantClients(2)
		var got []string
		for {
			first, payload, err := slow.next()
			if err != nil {
				t.Fatal(err)
			}
			if first == fin|closeFrame {
				if !strings.HasSuffix(payload, "too slow") {
					t.Errorf("closed with %q", payload)
				}
				break
			}
			for line := range strings.SplitSeq(payload, "\n") {
				var e event
				json.Unmarshal([]byte(line), &e)
				if e.Type == "hello" || e.Type == "message" {
					got = append(got, fmt.Sprint(e.ID))
				}
			}
		}
		back := chat.open("key=k&after=" + got[len(got)-1])
		back.want(said[len(got)-1:]...)
		if back.hello().Missed {
			t.Error("has missed something")
		}
	})
}

func TestOnline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.open("name=Ada&key=a")
		wantOnline(t, ada, 1, "Ada")
		time.Sleep(2 * time.Second)
		ada.take("online")

		bob, _ := chat.open("name=Bob"), chat.join("Carl")
		chat.open("name=Ada&key=a") // a second tab is nobody else
		wantOnline(t, bob, 2, "Ada", "Bob")
		time.Sleep(time.Second)
		wantOnline(t, ada, 3, "Ada", "Bob", "Carl")
		time.Sleep(time.Second)
		wantOnline(t, ada, 0) // unchanged

		// Whatever happens, it is told once a second at most.
		for range 20 {
			tab := chat.open("")
			time.Sleep(50 * time.Millisecond)
			tab.conn.Close()
			time.Sleep(50 * time.Millisecond)
		}
		if n := len(ada.take("online")); n > 3 {
			t.Errorf("told %d times in two seconds", n)
		}
		time.Sleep(2 * time.Second)
		ada.take("online")

		// And every 30 seconds at least.
		for range 5 {
			time.Sleep(30 * time.Second)
			if n := len(ada.take("online")); n < 1 || n > 2 {
				t.Errorf("told %d times in half a minute of silence", n)
			}
		}

		// Above fifty it is a number.
		for range 47 {
			chat.join("")
		}
		time.Sleep(time.Second)
		online := ada.take("online")
		if last := online[len(online)-1]; last.Count != 50 || len(last.Names) != 50 {
			t.Errorf("of 50 people: %+v", last)
		}
		chat.join("")
		time.Sleep(time.Second)
		online = ada.take("online")
		if last := online[len(online)-1]; last.Count != 51 || last.Names != nil {
			t.Errorf("of 51 people: %+v", last)
		}
	})
}

// wantOnline fails the test unless the tab was told once who is here (never, for count 0).
func wantOnline(t *testing.T, tab *tab, count int, names ...string) {
	t.Helper()
	online := tab.take("online")
	if count == 0 && len(online) == 0 {
		return
	}
	if len(online) != 1 || online[0].Count != count || !slices.Equal(online[0].Names, names) {
		t.Errorf("told %+v, want %d: %q", online, count, names)
	}
}

// In a crowd that comes and goes, who is here is told every ten seconds.
func TestOnlineInACrowd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.open("")
		for range largeRoom {
			chat.upgrade()
		}
		time.Sleep(largeRoomInterval)
		ada.take("online")
		for range 40 {
			chat.upgrade().Close()
			time.Sleep(time.Second)
		}
		if n := len(ada.take("online")); n < 3 || n > 5 {
			t.Errorf("told %d times in 40 seconds", n)
		}
	})
}

// Many who come back at once and do not read are handed what they have missed by
// reference: they cost their queues, and the room goes on.
func TestManyComeBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.open("")
		begin := ada.hello().ID
		for range 40 {
			ada.say(strings.Repeat("long", maxText/4), "")
			synctest.Wait()
		}
		ada.take("")
		chat.network.window = 4 << 10
		request := handshakeFor(fmt.Sprint("/ws?after=", begin), "chat.v1")
		const many = 500
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range many {
			chat.connect().send(request)
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		// Of what they cost here, the most is their ends of the in-memory network, and the frame
		// that each is writing; 128 KiB is what is kept.
		if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / many; each > historyBytes/2 {
			t.Errorf("each costs %d bytes", each)
		}
		ada.say("does it go on?", "")
		ada.want("does it go on?")
		chat.wantClients(1 + many)
		time.Sleep(writeWait + time.Second)
		chat.wantClients(1)
	})
}

// A hundred people live through some minutes in which lines are cut at any moment,
// before or after what is under way, and they come back and send again what they do not
// know to have arrived. In the end each has every message that one who was there all the time
// has, in the same order, but where it was told that some are missing; and everything
// that anyone said was said, and once, unless it was sent again after all that is kept.
func TestRandomLives(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		witness := chat.open("")
		begin := witness.hello().ID
		end := time.Now().Add(3 * time.Minute)
		lives := make([]*life, 100)
		var all sync.WaitGroup
		for i := range lives {
			l := &life{chat: chat, name: fmt.Sprint("p", i), rand: rand.New(rand.NewPCG(seed, uint64(i))), end: end}
			lives[i] = l
			all.Go(l.live)
		}
		all.Wait()

		heard := witness.take("message")
		place := map[int64]int{begin: -1} // of an id in what the witness has heard
		first := map[string]int{}         // place of a text in it
		for i, e := range heard {
			place[e.ID] = i
			if at, twice := first[e.Text]; !twice {
				first[e.Text] = i
			} else if i-at < historyMessages { // longer ago, the hub cannot know
				t.Errorf("%q was said twice, as message %d and %d", e.Text, at, i)
			}
		}
		cuts, repeats, gaps := 0, 0, 0
		for _, l := range lives {
			for n := range l.said {
				if text := fmt.Sprintf("%s says %d", l.name, n); heard[first[text]].Text != text {
					t.Errorf("%q was never said", text)
				}
			}
			for i, e := range l.heard {
				at, known := place[e.ID]
				if !known || heard[at].Text != e.Text {
					t.Fatalf("%s has heard %+v, which was not said", l.name, e)
				}
				if i > 0 && at != place[l.heard[i-1].ID]+1 && !l.gaps[e.ID] {
					t.Fatalf("%s has heard message %d after %d", l.name, at, place[l.heard[i-1].ID])
				}
			}
			if last := l.heard[len(l.heard)-1]; last.ID != heard[len(heard)-1].ID {
				t.Errorf("%s has not heard the last message", l.name)
			}
			cuts, repeats, gaps = cuts+l.cuts, repeats+l.repeats, gaps+len(l.gaps)
		}
		t.Logf("%d messages, %d cuts, %d answers to repeats, %d gaps that were told", len(heard), cuts, repeats, gaps)
		if len(heard) < 1000 || cuts < 500 || repeats < 10 || gaps < 5 {
			t.Error("these lives are too quiet to show anything")
		}
	})
}

// life is one person with a page: it keeps what it has said until it comes back.
type life struct {
	chat *chat
	name string
	rand *rand.Rand
	end  time.Time

	said    int      // lines so far
	outbox  []string // those that have not come back; a line is its own ref
	last    int64    // id of the last message heard
	heard   []event
	gaps    map[int64]bool // ids of messages before which some are missing, as was told
	cuts    int
	repeats int
}

func (l *life) sleep(most time.Duration) { time.Sleep(time.Duration(l.rand.Int64N(int64(most)))) }

func (l *life) live() {
	l.gaps = map[int64]bool{}
	l.sleep(10 * time.Second)
	for time.Now().Before(l.end) {
		l.connect(time.Duration(l.rand.Int64N(int64(20 * time.Second))))
		l.cuts++
		if l.rand.IntN(20) == 0 {
			l.sleep(2 * time.Minute) // a tunnel
		} else {
			l.sleep(3 * time.Second)
		}
	}
	// All are done; one last time in peace.
	time.Sleep(time.Until(l.end.Add(4 * time.Minute)))
	for len(l.outbox) > 0 {
		l.connect(20 * time.Second)
	}
	time.Sleep(time.Until(l.end.Add(6 * time.Minute)))
	l.connect(20 * time.Second)
}

// connect is one connection, which is cut after a time. Whatever is under way then is lost.
func (l *life) connect(duration time.Duration) {
	query := "key=" + l.name
	if l.last > 0 {
		query += fmt.Sprint("&after=", l.last)
	}
	tab, err := l.chat.dialTab(query)
	if err != nil {
		l.chat.t.Error(err)
		return
	}
	defer func() {
		tab.conn.Close()
		l.hear(tab)
	}()
	for _, line := range l.outbox {
		tab.conn.WriteJSON(clientMessage{line, line}) // cut meanwhile, it will be sent again
	}
	for cut := time.Now().Add(duration); time.Now().Before(cut); {
		l.hear(tab)
		l.sleep(2 * time.Second)
		if l.rand.IntN(4) == 0 && time.Now().Before(l.end) {
			line := fmt.Sprintf("%s says %d", l.name, l.said)
			l.said++
			l.outbox = append(l.outbox, line)
			tab.conn.WriteJSON(clientMessage{line, line})
			if l.rand.IntN(4) == 0 {
				return // cut before it can have come back
			}
		}
	}
}

// hear takes in what has arrived.
func (l *life) hear(tab *tab) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	for _, e := range tab.events {
		switch e.Type {
		case "hello":
			if e.Missed {
				l.gaps[-1] = true
			}
		case "message":
			if i := slices.Index(l.outbox, e.Ref); i >= 0 && strings.HasPrefix(e.Text, l.name+" ") {
				l.outbox = slices.Delete(l.outbox, i, i+1)
			}
			if e.ID <= l.last {
				if e.Ref == "" || !strings.HasPrefix(e.Text, l.name+" ") {
					l.chat.t.Errorf("%s has heard %+v twice", l.name, e)
				}
				l.repeats++
				continue
			}
			if l.gaps[-1] {
				delete(l.gaps, -1)
				l.gaps[e.ID] = true
			}
			l.last = e.ID
			l.heard = append(l.heard, e)
		}
	}
	tab.events = nil
}
