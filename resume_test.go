package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/history"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

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
