package main

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

// What the room promises to those who are in it. The words are in chat_test.go: a
// chat is started, people join and say something, and want lists what each of them
// has heard since it was last asked.

func TestEveryoneHearsEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")

		ada.say("hello")
		ada.want("hello")
		bob.want("hello")

		bob.say("good morning")
		ada.want("good morning")
		bob.want("good morning")
	})
}

func TestANameStandsBeforeTheText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join("name=Ada"), chat.join("")
		ada.say("hello")
		ada.want("Ada: hello")
		bob.want("Ada: hello")
		bob.say("hi")
		ada.want("hi")
		bob.want("hi")
	})
}

func TestOneHearsOnlyWhatIsSaidWhileHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		ada.say("anybody here?")
		ada.want("anybody here?")

		bob := chat.join("")
		bob.want() // no history on the classic wire, and no notices
		ada.want()

		bob.leave()
		bob.wantClosed(1000, "goodbye")
		ada.say("where did you go?")
		ada.want("where did you go?")
		chat.wantClients(1)
	})
}

// One says something and is gone: it counts, however soon it goes.
func TestLastWordsAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		bob := chat.join("")
		for i := range 100 {
			ada := chat.join("")
			ada.say(fmt.Sprint("farewell ", i))
			ada.conn.Close()
			bob.want(fmt.Sprint("farewell ", i))
		}
		chat.wantClients(1)
	})
}

// The order is one: what fifty people paste at the same moment, all fifty read alike.
func TestFiftyPaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		people := make([]*person, 50)
		for i := range people {
			people[i] = chat.join("")
		}
		for i, p := range people {
			go func() {
				for line := range 20 {
					p.say(fmt.Sprintf("%d says %d", i, line))
				}
			}()
		}
		lines := people[0].texts()
		if len(lines) != 1000 {
			t.Fatalf("%d lines arrived, want 1000", len(lines))
		}
		next := make([]int, len(people)) // the line each is to say next
		for _, line := range lines {
			var who, which int
			if _, err := fmt.Sscanf(line, "%d says %d", &who, &which); err != nil || next[who] != which {
				t.Fatalf("%q arrived, want %d of %d", line, next[who], who)
			}
			next[who]++
		}
		for _, p := range people[1:] {
			p.want(lines...)
		}
	})
}

// Without a word for ten minutes, people stay; one whose line is dead is forgotten
// after pongWait, and nobody else notices.
func TestIdleStaysVanishedGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")
		time.Sleep(10 * time.Minute)
		ada.wantHere()
		bob.wantHere()

		bob.freeze()
		chat.wantClients(2)
		time.Sleep(pongWait + lingerWait + time.Second)
		chat.wantClients(1)
		ada.say("alone?")
		ada.want("alone?")
	})
}

// One stops reading. The others hear everything at once; it is dropped when its
// queue is full, and from that moment not heard.
func TestStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t, unlimited)
		ada, bob := chat.join(""), chat.join("")
		hub := chat.rooms.named[lobby].hub
		others := maps.Clone(hub.clients)
		stuck := chat.upgrade()
		var client *Client // the hub's side of it
		for c := range hub.clients {
			if !others[c] {
				client = c
			}
		}

		long := strings.Repeat("long", protocol.MaxText/4)
		lines := 0
		for ; len(hub.clients) == 3 && lines < 2*queueSize; lines++ {
			ada.say(long)
			ada.want(long)
			bob.want(long)
		}
		if inFlight := chat.network.Window/protocol.MaxText + 1; lines < queueSize || lines > queueSize+2*inFlight {
			t.Errorf("dropped after %d lines, want about the queue's %d", lines, queueSize)
		}

		stuck.send(wstest.Masked(wstest.Fin|wstest.Text, "am I still heard?"))
		hub.broadcast <- message{client, protocol.ClientMessage{Text: "nor what was on its way?"}}
		bob.want()
		// It reads on, in time to be told why. It would not have come to the end of its
		// queue, so that is not sent.
		if frames, window := stuck.wantClosed(1013), chat.network.Window/protocol.MaxText+1; frames > window {
			t.Errorf("%d frames before the close frame, want %d, which were on their way", frames, window)
		}
		wantLogged(t, log, 1, "192.0.2.2:1234 disconnected: too slow")
		chat.wantClients(2)
	})
}

// One sends 30,000 messages at once, while twenty read at 400 KB/s and one of them
// asks something.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		ada := chat.join("")
		readers := make([]*slowReader, 20)
		for i := range readers {
			readers[i] = chat.upgrade().readSlowly(400_000)
		}
		flooder := chat.upgrade()
		go func() { // as fast as its line takes it: for most of an hour
			for i := range 30_000 {
				if _, err := io.WriteString(flooder.Conn, wstest.Masked(wstest.Fin|wstest.Text, fmt.Sprint("flood ", i))); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		ada.say("can you hear me?")
		time.Sleep(time.Second)
		for _, r := range readers {
			if r.count("can you hear me?") != 1 {
				t.Errorf("a reader has not heard the question within a second")
			}
		}
		// The one that floods is held to its rate, but it is not dropped, though its pongs
		// wait behind the flood: what it says is said, all of it and in order.
		time.Sleep(5 * time.Minute)
		chat.wantClients(22)
		wantLogged(t, log, 1, "is throttled")
		said := 0
		for _, line := range ada.texts() {
			if strings.HasPrefix(line, "flood ") {
				if line != fmt.Sprint("flood ", said) {
					t.Fatalf("heard %q, want flood %d", line, said)
				}
				said++
			}
		}
		if want := 100 + 10*302; said < want-20 || said > want+20 {
			t.Errorf("the flooder has said %d lines in about 5 minutes, want about %d", said, want)
		}
	})
}
