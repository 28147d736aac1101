package main

import (
	"fmt"
	"math/rand/v2"
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

// A message that a client sends again is answered to it alone, in the order in which it
// came, while the message is in history.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada, bob := chat.joinV1("key=ada"), chat.joinV1("key=bob")
		ada.say("hello", "r1")
		first := ada.take("message")[0]
		bob.want("hello")

		again := chat.joinV1(fmt.Sprint("key=ada&after=", first.ID)) // another connection of the same user
		again.say("hello", "r1")
		if answer := again.take("message"); len(answer) != 1 || answer[0].Line != first.Line {
			t.Errorf("the answer to a repeat is %+v", answer)
		}
		ada.want()
		bob.want()

		// A ref is its sender's own: another user may use the same.
		bob.say("me too", "r1")
		bob.want("me too")
		ada.want("me too")

		for i := range 3 {
			ada.say(fmt.Sprint("line ", i), fmt.Sprint("q", i))
			ada.say(fmt.Sprint("line ", i), fmt.Sprint("q", i))
		}
		ada.want("line 0", "line 0", "line 1", "line 1", "line 2", "line 2")
		bob.want("line 0", "line 1", "line 2")

		for range history.MaxMessages {
			bob.say("more", "")
		}
		bob.take("message")
		ada.say("hello", "r1")
		bob.want("hello")
	})
}

// A client that comes back after it was disconnected as a slow consumer misses nothing.
func TestASlowConsumerComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		slow := chat.upgradeTo("", protocol.ChatV1)
		var sent []string
		for i := range queueSize + 10 {
			sent = append(sent, fmt.Sprint("line ", i))
			ada.say(sent[i])
			synctest.Wait()
		}
		chat.wantClients(2)
		var last int64 // id of the last message that it received
		received := 0
		for first := byte(0); first != wstest.Fin|wstest.Close; {
			var payload string
			var err error
			if first, payload, err = slow.next(); err != nil {
				t.Fatal(err)
			}
			if first != wstest.Fin|wstest.Text {
				continue
			}
			events, err := wstest.Events(protocol.ChatV1, []byte(payload))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if e.Type == "message" {
					last = e.ID
					received++
				}
			}
		}
		back := chat.joinV1(fmt.Sprint("after=", last))
		back.want(sent[received:]...)
		if received == 0 || back.hello().Missed {
			t.Errorf("received %d messages, then missed some", received)
		}
	})
}

// A hundred clients talk for some minutes. Their connections are cut at any moment, before
// or after what is under way; they come back and send again what they do not know to have
// arrived. In the end each has every message that a client has which was there all the
// time, in the same order, except where it was told that some may be missing. Everything
// that was sent was said, and said once, unless it was sent again after it had left
// history.
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

		received := witness.take("message")
		place := map[int64]int{begin: -1} // of an id in what the witness received
		first := map[string]int{}         // place of a text in it
		for i, e := range received {
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
				if text := fmt.Sprintf("%s says %d", l.name, n); received[first[text]].Text != text {
					t.Errorf("%q was never said", text)
				}
			}
			for i, e := range l.received {
				at, known := place[e.ID]
				if !known || received[at].Text != e.Text {
					t.Fatalf("%s received %+v, which was not said", l.name, e)
				}
				if i > 0 && at != place[l.received[i-1].ID]+1 && !l.gaps[e.ID] {
					t.Fatalf("%s received message %d after %d", l.name, at, place[l.received[i-1].ID])
				}
			}
			if last := l.received[len(l.received)-1]; last.ID != received[len(received)-1].ID {
				t.Errorf("%s has not received the last message", l.name)
			}
			cuts, repeats, gaps = cuts+l.cuts, repeats+l.repeats, gaps+len(l.gaps)
		}
		t.Logf("%d messages, %d cuts, %d answers to repeats, %d gaps that were told", len(received), cuts, repeats, gaps)
		if len(received) < 1000 || cuts < 500 || repeats < 10 || gaps < 5 {
			t.Error("these lives are too quiet to show anything")
		}
	})
}

// life is a client that keeps what it sent until it comes back, as a page does.
type life struct {
	chat *chat
	name string
	rand *rand.Rand
	end  time.Time

	said     int      // lines so far
	outbox   []string // those that have not come back; a line is its own ref
	last     int64    // id of the last message received
	received []wstest.Event
	gaps     map[int64]bool // ids of messages before which some are missing, as the hello said
	cuts     int
	repeats  int
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
		l.receive(tab)
	}()
	for _, line := range l.outbox {
		tab.conn.WriteJSON(map[string]string{"text": line, "ref": line}) // cut meanwhile, it will be sent again
	}
	for cut := time.Now().Add(duration); time.Now().Before(cut); {
		l.receive(tab)
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

// receive takes in what has arrived.
func (l *life) receive(tab *person) {
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
					l.chat.t.Errorf("%s received %+v twice", l.name, e)
				}
				l.repeats++
				continue
			}
			if l.gaps[-1] {
				delete(l.gaps, -1)
				l.gaps[e.ID] = true
			}
			l.last = e.ID
			l.received = append(l.received, e)
		}
	}
	tab.events = nil
}
