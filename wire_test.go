package main

import (
	"context"
	"encoding/json"
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

	"chat/internal/history"
	"chat/internal/metrics"
	"chat/internal/presence"
	"chat/internal/protocol"
	"chat/internal/ratelog"
	"chat/internal/wstest"
)

// The chat.v1 wire: what its clients are told, and that they can be cut off, come back,
// and have missed nothing and said nothing twice.

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
			synctest.Test(t, func(t *testing.T) {
				chat := startChat(t)
				ada, v1 := chat.join(""), chat.joinV1("name=witness")
				v1.take("")
				var from string
				if name, ok := strings.CutPrefix(row.query, "classic"); ok {
					chat.join(strings.TrimPrefix(name, "&")).say(row.send)
				} else {
					speaker := chat.joinV1(strings.NewReplacer(`"`, "%22", `\`, "%5c", "<", "%3c", ">", "%3e").Replace(row.query))
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
				if got := messages[0].Line; got != want {
					t.Errorf("on chat.v1\n%s, want\n%s", got, want)
				}
			})
		})
	}
}

// Long texts that grow on the wire arrive whole, or not at all where nothing is left of
// them; listen checks the length of every frame.
func TestLongTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.joinV1("name=Ada"), chat.join("")
		for _, letter := range []string{`"`, `\`, "<", "é"} {
			text := strings.Repeat(letter, protocol.MaxText/len(letter))
			ada.say(text, strings.Repeat("\x01", protocol.MaxClientMsgID-len(letter))+letter)
			ada.want(text)
			bob.want("Ada: " + text)
		}
		ada.send(`{"text":"` + strings.Repeat(`\u0000`, protocol.MaxText) + `"}`)
		ada.send(`{"text":"` + strings.Repeat(`\u0000`, protocol.MaxText-1) + `."}`)
		ada.want(".")
		bob.want("Ada: .")
	})
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
		synctest.Test(t, func(t *testing.T) {
			chat := startChat(t)
			resp, _ := chat.ask(wstest.Handshake("chat.test", "/ws", asked))
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); resp.StatusCode != http.StatusSwitchingProtocols || got != want {
				t.Errorf("%q is answered with %s and %q, want %q", asked, resp.Status, got, want)
			}
		})
	}
}

func TestHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.joinV1("name=+Ada%0a&key=k1").hello()
		if ada.Room == nil || *ada.Room != "" || ada.Name != "Ada" || ada.Max != 4096 || ada.Missed || len(ada.From) != 16 {
			t.Errorf("%+v", ada)
		}
		again, other := chat.joinV1("name=Ada&key=k1").hello(), chat.joinV1("name=Ada&key=k2").hello()
		if again.From != ada.From || other.From == ada.From {
			t.Error("from does not tell keys apart")
		}
		nobody, nobodyElse := chat.joinV1("").hello(), chat.joinV1("").hello()
		if nobody.Name != "guest" || nobody.From == nobodyElse.From {
			t.Error("from does not tell apart those without a key")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a, b := newServer(nil, 0, 1), newServer(nil, 0, 1)
		if a.userID("k1") == b.userID("k1") {
			t.Error("from is the same on every server")
		}
	})
}

// A newcomer is told the last of what was said, one that comes back all that it has
// missed, and then what is said from then on.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.join("name=Ada")
		empty := chat.joinV1("").hello()
		var said []string
		say := func() {
			said = append(said, fmt.Sprint("line ", len(said)))
			ada.say(said[len(said)-1])
			synctest.Wait()
		}
		for range 120 {
			say()
		}
		newcomer := chat.joinV1("")
		newcomer.want(said[70:]...)
		if last := newcomer.hello().ID; last <= empty.ID {
			t.Errorf("the last id is %d, and was %d in an empty room", last, empty.ID)
		}

		back := chat.joinV1(fmt.Sprint("after=", empty.ID))
		back.want(said...)
		if back.hello().Missed {
			t.Error("has missed something")
		}
		middle := chat.joinV1(fmt.Sprint("after=", empty.ID))
		resumed := chat.joinV1(fmt.Sprint("after=", middle.take("message")[99].ID))
		resumed.want(said[100:]...)
		say()
		resumed.want(said[120:]...)
		newcomer.want(said[120:]...)

		for range history.MaxMessages {
			say()
		}
		late := chat.joinV1(fmt.Sprint("after=", empty.ID))
		late.want(said[len(said)-history.MaxMessages:]...)
		if !late.hello().Missed {
			t.Error("has not missed anything?")
		}
	})
}

func TestAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.joinV1("")
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
			tab := chat.joinV1("after=" + after)
			if h, heard := tab.hello(), tab.take("message"); h.Missed != want.missed || len(heard) != want.heard || h.ID != last {
				t.Errorf("after=%s: missed %v, %d messages, want %+v", after, h.Missed, len(heard), want)
			}
		}
	})
}

// A line that is sent again, because its sender does not know whether it arrived, is
// said once.
func TestSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada, bob, carl := chat.joinV1("key=ada"), chat.joinV1("key=bob"), chat.join("")
		ada.say("hello", "r1")
		first := ada.take("message")[0]
		bob.want("hello")

		again := chat.joinV1("key=ada&after=" + fmt.Sprint(first.ID)) // another connection of hers
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
		for range history.MaxMessages {
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
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		h := newHub(ratelog.New(), metrics.New(), 0)
		slow := &Client{hub: h, protocol: protocol.ChatV1, userID: "slow", send: make(chan *batch, 1), done: make(chan struct{})}
		h.join(slow) // its queue is full: it has not taken the hello
		other := joinHub(h)
		h.broadcast <- message{slow, protocol.ClientMessage{Text: "hello", ClientMsgID: "r"}}
		h.broadcast <- message{slow, protocol.ClientMessage{Text: "hello", ClientMsgID: "r"}}
		time.AfterFunc(time.Second, stop)
		h.run(ctx)
		if b := <-other.send; string(b.payloads[protocol.Classic].text) != "hello" || <-other.send != nil {
			t.Errorf("the other has heard %q, or something more", b.payloads[protocol.Classic].text)
		}
		if slow.reason != slowConsumer {
			t.Errorf("it ended with %v", slow.reason)
		}
	})
}

// Answers to repeats are what is kept, not copies of it: those who do not read them
// cost their queues.
func TestRepeatsAreNotCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		chat.network.Window = 1 << 10
		tabs := make([]*raw, 100)
		for i := range tabs {
			tabs[i] = chat.upgradeTo("key=k", protocol.ChatV1)
		}
		tabs[0].send(wstest.Masked(wstest.Fin|wstest.Text, `{"text":"`+strings.Repeat(`"`, protocol.MaxText)+`","ref":"r"}`))
		synctest.Wait()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for _, tab := range tabs {
			tab.send(strings.Repeat(wstest.Masked(wstest.Fin|wstest.Text, `{"text":"x","ref":"r"}`), 90))
			synctest.Wait()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / int64(len(tabs)); each > 90*protocol.MaxText/4 {
			t.Errorf("the answers to one cost %d bytes", each)
		}
	})
}

// One that was dropped as too slow comes back and has missed nothing.
func TestTooSlowComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		slow := chat.upgradeTo("key=k", protocol.ChatV1)
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
			if first == wstest.Fin|wstest.Close {
				if !strings.HasSuffix(payload, "too slow") {
					t.Errorf("closed with %q", payload)
				}
				break
			}
			for line := range strings.SplitSeq(payload, "\n") {
				var e wstest.Event
				json.Unmarshal([]byte(line), &e)
				if e.Type == "hello" || e.Type == "message" {
					got = append(got, fmt.Sprint(e.ID))
				}
			}
		}
		back := chat.joinV1("key=k&after=" + got[len(got)-1])
		back.want(said[len(got)-1:]...)
		if back.hello().Missed {
			t.Error("has missed something")
		}
	})
}

func TestOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.joinV1("name=Ada&key=a")
		wantOnline(t, ada, 1, "Ada")
		time.Sleep(2 * time.Second)
		ada.take("online")

		bob, _ := chat.joinV1("name=Bob"), chat.join("name=Carl")
		chat.joinV1("name=Ada&key=a") // a second tab is nobody else
		wantOnline(t, bob, 2, "Ada", "Bob")
		time.Sleep(time.Second)
		wantOnline(t, ada, 3, "Ada", "Bob", "Carl")
		time.Sleep(time.Second)
		wantOnline(t, ada, 0) // unchanged

		// Whatever happens, it is told once a second at most.
		for range 20 {
			tab := chat.joinV1("")
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
func wantOnline(t *testing.T, tab *person, count int, names ...string) {
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
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.joinV1("")
		for range presence.LargeRoom {
			chat.upgrade()
		}
		time.Sleep(presence.LargeRoomInterval)
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
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.joinV1("")
		begin := ada.hello().ID
		for range 40 {
			ada.say(strings.Repeat("long", protocol.MaxText/4), "")
			synctest.Wait()
		}
		ada.take("")
		chat.network.Window = 4 << 10
		request := wstest.Handshake("chat.test", fmt.Sprint("/ws?after=", begin), "chat.v1")
		const many = 500
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range many {
			chat.dial().send(request)
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		// Of what they cost here, the most is their ends of the in-memory network, and the frame
		// that each is writing; 128 KiB is what is kept.
		if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / many; each > history.MaxBytes/2 {
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
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		witness := chat.joinV1("")
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
			} else if i-at < history.MaxMessages { // longer ago, the hub cannot know
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
	heard   []wstest.Event
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
	tab, err := l.chat.connect(query, protocol.ChatV1)
	if err != nil {
		l.chat.t.Error(err)
		return
	}
	defer func() {
		tab.conn.Close()
		l.hear(tab)
	}()
	for _, line := range l.outbox {
		tab.conn.WriteJSON(map[string]string{"text": line, "ref": line}) // cut meanwhile, it will be sent again
	}
	for cut := time.Now().Add(duration); time.Now().Before(cut); {
		l.hear(tab)
		l.sleep(2 * time.Second)
		if l.rand.IntN(4) == 0 && time.Now().Before(l.end) {
			line := fmt.Sprintf("%s says %d", l.name, l.said)
			l.said++
			l.outbox = append(l.outbox, line)
			tab.conn.WriteJSON(map[string]string{"text": line, "ref": line})
			if l.rand.IntN(4) == 0 {
				return // cut before it can have come back
			}
		}
	}
}

// hear takes in what has arrived.
func (l *life) hear(tab *person) {
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
