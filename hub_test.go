package main

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/protocol"
)

// What a room does, in ten tests. Read these first.
//
// Their vocabulary is in chat_test.go. startChat runs the whole server on fake time and a
// network in memory, so that ten minutes take no time. join connects a client of the
// classic protocol, joinV1 one of chat.v1; both read all the time. say sends a message.
// want compares the messages that a client received since the last want. A connection
// that upgrade opens reads and sends only what the test tells it to.

// Every client receives every message, the sender's own too, after the sender's name.
func TestEveryoneReceivesEveryMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join("name=Ada"), chat.join("")

		ada.say("hello")
		ada.want("Ada: hello")
		bob.want("Ada: hello")

		bob.say("good morning") // bob gave no name
		ada.want("good morning")
		bob.want("good morning")
	})
}

func TestAClientReceivesWhatIsSaidWhileItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		ada.say("anybody here?")
		ada.want("anybody here?")

		bob := chat.join("")
		bob.want() // the classic protocol has neither history nor notices
		ada.want()

		bob.leave()
		bob.wantClosed(1000, "goodbye")
		ada.say("where did you go?")
		ada.want("where did you go?")
		chat.wantClients(1)
	})
}

// A message counts, however soon after it the sender leaves.
func TestLastWordsCount(t *testing.T) {
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

// Fifty clients paste twenty lines each at the same moment. All receive them in the same
// order, in which the lines of each client are in its own.
func TestFiftyPasteAtOnceAndAllReadTheSame(t *testing.T) {
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
			t.Fatalf("received %d lines, want 1000", len(lines))
		}
		next := make([]int, len(people)) // the line that each says next
		for _, line := range lines {
			var who, which int
			if _, err := fmt.Sscanf(line, "%d says %d", &who, &which); err != nil || which != next[who] {
				t.Fatalf("received %q, want line %d of %d", line, next[who], who)
			}
			next[who]++
		}
		for _, p := range people[1:] {
			p.want(lines...)
		}
	})
}

func TestIdleClientsStayAndAVanishedOneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob, carl := chat.join(""), chat.join(""), chat.joinV1("")
		time.Sleep(10 * time.Minute)
		for _, p := range []*person{ada, bob, carl} {
			p.wantHere()
		}

		bob.freeze()
		time.Sleep(pongWait - pingPeriod)
		chat.wantClients(3)
		time.Sleep(pingPeriod + lingerWait + time.Second)
		chat.wantClients(2)
		ada.say("two of us")
		ada.want("two of us")
		carl.want("two of us")
	})
}

// A client stops reading. The others receive everything at once. The client is
// disconnected when its queue is full. It is told why if it reads on; what was in its
// queue, which it would not have come to the end of, is not sent.
func TestAClientThatStopsReadingIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t, unlimited)
		ada, bob := chat.join(""), chat.join("")
		stuck := chat.upgrade()

		long := strings.Repeat("long", protocol.MaxText/4)
		onTheWay := chat.network.Window/protocol.MaxText + 1
		for range queueSize + 2*onTheWay {
			ada.say(long)
			ada.want(long)
			bob.want(long)
		}
		if frames := stuck.wantClosed(1013); frames > onTheWay {
			t.Errorf("%d frames came before the close frame, want at most %d, which were on their way", frames, onTheWay)
		}
		wantLogged(t, log, 1, "192.0.2.2:1234 disconnected: too slow")
		chat.wantClients(2)
	})
}

// A client sends 3,000 lines at once. After a burst of 100 it is throttled to ten lines a
// second. Its lines all arrive, in order, and the others are not held up.
func TestAFloodIsThrottledAndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		ada, flooder := chat.join(""), chat.join("")
		slow := chat.upgrade().readSlowly(400_000)
		go func() {
			for i := range 3000 {
				flooder.say(fmt.Sprint("flood ", i))
			}
		}()
		time.Sleep(time.Second)
		ada.say("a question")
		time.Sleep(time.Second)
		if slow.count("a question") != 1 {
			t.Error("a slow reader has not received the question within a second")
		}
		time.Sleep(5 * time.Minute)
		flooder.wantHere() // though its pongs waited behind the flood
		wantLogged(t, log, 1, "is throttled")
		next := 0
		for _, line := range ada.texts() {
			if line == "a question" {
				continue
			}
			if line != fmt.Sprint("flood ", next) {
				t.Fatalf("received %q, want flood %d", line, next)
			}
			next++
		}
		if next != 3000 {
			t.Errorf("received %d lines, want 3000", next)
		}
	})
}

func TestANewcomerGetsHistoryAndOneThatComesBackMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		ada.say("first")
		ada.say("second")
		ada.want("first", "second")

		bob := chat.joinV1("")
		bob.want("first", "second")
		last := bob.hello().ID // of the last message
		bob.leave()
		ada.say("third")
		ada.want("third")

		back := chat.joinV1(fmt.Sprint("after=", last))
		back.want("third")
		ada.say("fourth")
		back.want("fourth")
		if back.hello().Missed {
			t.Error("told that it may have missed something")
		}
	})
}

// A client sends a message again over a new connection, because it does not know whether
// it arrived. The room receives it once. The client alone gets it as an answer.
func TestAMessageSentAgainIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.joinV1("key=ada"), chat.join("")
		ada.say("hello", "message 1")
		ada.want("hello")
		bob.want("hello")

		again := chat.joinV1("key=ada")
		again.want("hello") // from history
		again.say("hello", "message 1")
		again.want("hello")
		ada.want()
		bob.want()
	})
}

// The server stops while twenty clients talk. All have received the same when they are
// told.
func TestAStopDeliversWhatWasSaidAndTellsEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		people := make([]*person, 20)
		for i := range people {
			people[i] = chat.join("")
		}
		for i, p := range people {
			go func() {
				for n := 0; ; n++ {
					if p.conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, "%d says %d", i, n)) != nil {
						return
					}
					time.Sleep(time.Duration(i+1) * time.Millisecond)
				}
			}()
		}
		time.Sleep(100 * time.Millisecond)
		chat.stop()
		chat.wantStopped()
		lines := people[0].texts()
		if len(lines) < 200 {
			t.Errorf("received only %d lines", len(lines))
		}
		for _, p := range people {
			p.wantClosed(1001, "the server is stopping")
		}
		for _, p := range people[1:] {
			p.want(lines...)
		}
	})
}
