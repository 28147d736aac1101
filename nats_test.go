package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/natslog"
	"chat/internal/natstest"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// Several servers that share their rooms over a simulated NATS.

// sharedOver is an option: the server shares its rooms with all others that have it.
func sharedOver(nats *natstest.NATS) func(*server) {
	return func(s *server) {
		s.stream = natslog.OpenOn(nats.Connect(), natslog.Options{Replicas: 1, Keep: keep}, monitor{s.logger, s.counters})
	}
}

// startServers starts so many servers that share their rooms, and waits until they do.
func startServers(t *testing.T, n int, options ...func(*server)) (nats *natstest.NATS, servers []*chat) {
	nats = natstest.New()
	nats.SetLatency(time.Millisecond)
	for range n {
		servers = append(servers, startChat(t, append(options, sharedOver(nats))...))
	}
	settle()
	return nats, servers
}

// settle waits longer than it takes until what is said is received.
func settle() { time.Sleep(50 * time.Millisecond) }

// lines returns the messages as they were received.
func lines(messages []wstest.Event) (all []string) {
	for _, m := range messages {
		all = append(all, m.Line)
	}
	return all
}

// Two clients on different servers receive the same, in one order. One moves to the other
// server: it is the same user, misses nothing and receives nothing twice, and what it sends
// again is not said again.
func TestServersShareARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, servers := startServers(t, 2)
		ada, bob := servers[0].joinV1("key=ada&name=Ada"), servers[1].joinV1("key=bob&name=Bob")
		classic := servers[1].join("")
		settle()
		for i := range 20 {
			ada.say(fmt.Sprint("ada ", i), fmt.Sprint("a", i))
			bob.say(fmt.Sprint("bob ", i), fmt.Sprint("b", i))
		}
		settle()
		received := ada.take("message")
		if len(received) != 40 || !slices.Equal(lines(received), lines(bob.take("message"))) {
			t.Fatalf("one receives %d of 40 messages, the other not the same", len(received))
		}
		var texts []string
		for _, m := range received {
			texts = append(texts, m.Name+": "+m.Text)
		}
		classic.want(texts...)

		moved := servers[1].joinV1(fmt.Sprint("key=ada&name=Ada&after=", received[30].ID))
		settle()
		if hello := moved.hello(); hello.Missed || hello.From != ada.hello().From || hello.ID != received[39].ID {
			t.Errorf("moved: %s", hello.Line)
		}
		if rest := moved.take("message"); !slices.Equal(lines(rest), lines(received[31:])) {
			t.Errorf("resumes with %q", lines(rest))
		}
		moved.say("ada 3", "a3")
		settle()
		first := received[slices.IndexFunc(received, func(m wstest.Event) bool { return m.Ref == "a3" })]
		if answer := moved.take("message"); !slices.Equal(lines(answer), []string{first.Line}) {
			t.Errorf("a repeat is answered with %q", lines(answer))
		}
		bob.want()
		ada.want()
	})
}

// A repeat is found when the message is no longer among those that a hub keeps.
func TestARepeatIsFoundLongAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, servers := startServers(t, 2, unlimited)
		ada := servers[0].joinV1("key=ada")
		ada.say("first", "r")
		settle()
		first := ada.take("message")[0]
		for i := range 600 {
			ada.say(fmt.Sprint("line ", i))
		}
		time.Sleep(time.Second)
		ada.take("")
		bob := servers[1].joinV1("key=bob")
		again := servers[1].joinV1("key=ada")
		settle()
		bob.take("")
		again.take("")
		again.say("first", "r")
		settle()
		if answer := again.take("message"); !slices.Equal(lines(answer), []string{first.Line}) {
			t.Errorf("a repeat is answered with %q, want %s", lines(answer), first.Line)
		}
		bob.want()
	})
}

// A room in which nothing was said, or long ago, tells no false gaps, whichever server
// somebody comes back to.
func TestQuietRoomsHaveNoGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, servers := startServers(t, 2)
		quiet := servers[0].joinV1("room=quiet")
		busy := servers[0].joinV1("room=busy")
		settle()
		for range 10 {
			busy.say("hello")
			settle()
		}
		before := quiet.hello().ID
		late := servers[0].joinV1("room=quiet")
		settle()
		hello := late.hello()
		if hello.ID <= before || hello.ID%1000 != 999 {
			t.Errorf("the quiet room is at %d after %d", hello.ID, before)
		}
		for _, after := range []int64{before, hello.ID} {
			back := servers[1].joinV1(fmt.Sprint("room=quiet&after=", after))
			settle()
			if hello := back.hello(); hello.Missed {
				t.Errorf("a false gap: %s", hello.Line)
			}
		}
		quiet.say("at last")
		settle()
		resumed := servers[1].joinV1(fmt.Sprint("room=quiet&after=", hello.ID))
		settle()
		resumed.want("at last")
	})
}

// Who has received more from a faster server is let in when this one has caught up, and
// gets what comes after. A position that the stream never had is unknown.
func TestAClientOfAFasterServerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 2)
		ada := servers[0].joinV1("")
		settle()
		ada.say("one")
		settle()
		nats.LoseSaid(1) // neither server is told: both find it a second later
		ada.say("two")
		settle()
		ahead := ada.take("message")[0].ID + 1000
		bob := servers[1].joinV1(fmt.Sprint("after=", ahead))
		bob.say("me first", "b1")
		settle()
		if got := bob.take(""); len(got) > 0 {
			t.Errorf("received %q before the server has what it has received", lines(got))
		}
		time.Sleep(2 * time.Second)
		if hello := bob.hello(); hello.Missed || hello.ID != ahead {
			t.Errorf("was greeted with %s", hello.Line)
		}
		bob.want("me first")
		ada.want("two", "me first")

		stranger := servers[1].joinV1(fmt.Sprint("after=", ahead+1_000_000))
		time.Sleep(6 * time.Second)
		if hello := stranger.hello(); !hello.Missed {
			t.Errorf("was greeted with %s", hello.Line)
		}
		stranger.want("one", "two", "me first")
	})
}

// A client that resumes after 0 gets everything that is kept.
func TestResumeFromTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, servers := startServers(t, 1)
		ada := servers[0].joinV1("")
		var said []string
		for i := range 80 {
			said = append(said, fmt.Sprint(i))
			ada.say(said[i])
			settle()
		}
		bob := servers[0].joinV1("after=0")
		settle()
		bob.hello()
		bob.want(said...)
	})
}

// A client of the classic protocol resumes nothing, and so waits for nothing.
func TestAClassicClientDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, servers := startServers(t, 1)
		classic := servers[0].join(fmt.Sprint("after=", protocol.MaxID))
		settle()
		classic.say("hello")
		settle()
		classic.want("hello")
	})
}

// While the stream is away, what is said waits. From ten seconds on clients are told and
// newcomers refused. When it is back, all hear what waited, once.
func TestTheStreamIsAwayAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		nats, servers := startServers(t, 2)
		ada, bob := servers[0].joinV1("key=ada"), servers[1].join("")
		settle()
		nats.SetAway(true)
		ada.say("in the dark", "r1")
		bob.say("anybody there?")
		time.Sleep(8 * time.Second)
		ada.wantHere()
		if _, body := servers[0].ask(healthCheck); body != "ok" {
			t.Errorf("the server answers %q after 8 seconds", body)
		}
		time.Sleep(5 * time.Second)
		ada.wantClosed(1013, "the chat's log is out of reach")
		bob.wantClosed(1013, "the chat's log is out of reach")
		for _, request := range []string{healthCheck, handshake, plainGet} {
			resp, body := servers[0].ask(request)
			if resp.StatusCode != 503 || !strings.Contains(body, "out of reach") || request != healthCheck && resp.Header.Get("Retry-After") == "" {
				t.Errorf("%.20q is answered with %v %q", request, resp.Status, body)
			}
		}
		servers[0].wantClients(0)
		wantLogged(t, log, 2, "the stream CHAT is out of reach")

		nats.SetAway(false)
		time.Sleep(3 * time.Second)
		if _, body := servers[0].ask(healthCheck); body != "ok" {
			t.Errorf("the server answers %q", body)
		}
		back := servers[1].joinV1("key=ada")
		settle()
		back.say("in the dark", "r1")
		settle()
		heard := back.texts()
		slices.Sort(heard)
		if !slices.Equal(heard, []string{"anybody there?", "in the dark", "in the dark"}) { // the last as an answer
			t.Errorf("received %q", heard)
		}
		servers[1].wantMetrics("chat_nats_connected 1", "chat_nats_turns_under_way 0")
	})
}

// Who comes right after an outage, when what was said before it is stored and does not come yet,
// waits for it, and is not disconnected once more.
func TestWhoComesRightAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 1)
		ada := servers[0].joinV1("")
		ada.say("hello", "")
		settle()
		nats.SetAway(true)
		ada.say("in the dark", "")
		time.Sleep(13 * time.Second)
		ada.wantClosed(1013, "the chat's log is out of reach")
		nats.LoseSaid(1)
		nats.Lag(1)
		nats.SetAway(false)
		time.Sleep(time.Second)
		if _, body := servers[0].ask(healthCheck); body != "ok" {
			t.Errorf("the server answers %q", body)
		}
		bob := servers[0].joinV1("")
		time.Sleep(time.Second)
		bob.wantHere()
		if heard := bob.texts(); heard != nil {
			t.Errorf("received %q before all of it was there", heard)
		}
		nats.Lag(0)
		time.Sleep(time.Second)
		bob.wantHere()
		if heard := bob.texts(); !slices.Equal(heard, []string{"hello", "in the dark"}) {
			t.Errorf("received %q", heard)
		}
	})
}

// A room that takes long to be read is read to its end, though those who wait for it are gone.
func TestALongRoomIsReadToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 1)
		for n := range 10 {
			nats.Put("CHAT", "chat.room.long", fmt.Sprint("x.", n+1), fmt.Appendf(nil, `{"time":"2026-01-02T03:04:05.678Z","lines":[{"from":"f","text":"line %d"}]}`, n))
		}
		time.Sleep(time.Second) // until the server has read what it needs at its start
		nats.SetPace(1900 * time.Millisecond)
		early := servers[0].joinV1("room=long")
		time.Sleep(12 * time.Second)
		early.wantClosed(1013, "the chat's log is out of reach")
		time.Sleep(12 * time.Second)
		late := servers[0].joinV1("room=long")
		settle()
		if n := len(late.texts()); n != 10 {
			t.Errorf("received %d lines, want 10", n)
		}

		nats.SetPace(0)
		servers[0].joinV1("room=empty").leave() // nothing is in it: it is read, and closed
		time.Sleep(5 * time.Second)
		if n := servers[0].rooms.count(); n != 2 {
			t.Errorf("there are %d rooms, want 2", n)
		}
	})
}

// healthCheck asks whether the server is well.
var healthCheck = wstest.PlainGet("chat.test", "/healthz")

// Before the first contact newcomers wait three seconds, and are let in or refused.
func TestBeforeTheFirstContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats := natstest.New()
		nats.SetAway(true)
		chat := startChat(t, sharedOver(nats))
		if resp, _ := chat.ask(healthCheck); resp.StatusCode != 503 {
			t.Errorf("the server says that it is well: %v", resp.Status)
		}
		begin := time.Now()
		if resp, _ := chat.ask(handshake); resp.StatusCode != 503 || time.Since(begin) != contactTimeout {
			t.Errorf("%v after %v", resp.Status, time.Since(begin))
		}
		time.AfterFunc(contactTimeout/2, func() { nats.SetAway(false) })
		ada := chat.joinV1("")
		settle()
		ada.say("hello")
		settle()
		ada.want("hello")
	})
}

// A stream that was deleted is made again. Clients are told and miss nothing that is said
// after; what is gone with it they are told of.
func TestTheStreamIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 2)
		ada, bob := servers[0].joinV1(""), servers[1].joinV1("")
		settle()
		ada.say("before")
		settle()
		last := bob.take("message")[0].ID
		nats.Delete("CHAT")
		time.Sleep(5 * time.Second)
		ada.wantClosed(1012, "the chat's log was replaced")
		bob.wantClosed(1012, "the chat's log was replaced")
		back := servers[0].joinV1(fmt.Sprint("after=", last))
		newcomer := servers[1].joinV1("")
		settle()
		if hello := back.hello(); !hello.Missed || hello.ID <= last {
			t.Errorf("was greeted with %s", hello.Line)
		}
		newcomer.say("after")
		settle()
		back.want("after")
		newcomer.want("after")
	})
}

// A stream that has lost its end is noticed, too, but not for one look at it.
func TestTheStreamGoesBackwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 2)
		ada := servers[0].joinV1("")
		settle()
		for i := range 5 {
			ada.say(fmt.Sprint(i))
			settle()
		}
		last := ada.take("message")[4].ID
		nats.Cut("CHAT", 2)
		time.Sleep(1500 * time.Millisecond)
		ada.wantHere()
		time.Sleep(5 * time.Second)
		ada.wantClosed(1012, "the chat's log was replaced")
		back := servers[1].joinV1(fmt.Sprint("after=", last))
		time.Sleep(6 * time.Second)
		if hello := back.hello(); !hello.Missed {
			t.Errorf("was greeted with %s", hello.Line)
		}
		back.want("0", "1", "2")
		back.say("on")
		settle()
		back.want("on")
	})
}

// A stream that has lost its end, and has grown beyond it at once, is noticed as well: who has
// received what was lost is told that messages are missing, and gets those that are there.
func TestTheStreamGoesBackwardsAndOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 2)
		ada, bob := servers[0].joinV1(""), servers[1].joinV1("name=Bob")
		settle()
		for i := range 5 {
			ada.say(fmt.Sprint(i))
			settle()
		}
		last := ada.take("message")[4].ID
		nats.Cut("CHAT", 3)
		bob.take("message")
		bob.say("a")
		settle()
		ada.wantClosed(1012, "the chat's log was replaced")
		bob.wantClosed(1012, "the chat's log was replaced")
		eve := servers[1].joinV1("name=Eve")
		settle()
		for _, text := range []string{"b", "c", "d"} {
			eve.say(text)
			settle()
		}
		back := servers[0].joinV1(fmt.Sprint("after=", last))
		settle()
		if hello := back.hello(); !hello.Missed {
			t.Errorf("was greeted with %s", hello.Line)
		}
		back.want("0", "1", "a", "b", "c", "d")
	})
}

// A stop says what has gathered, waits for the turn under way, and stays within five
// seconds even if the stream does not answer.
func TestAStopWaitsForTheLog(t *testing.T) {
	for _, away := range []bool{false, true} {
		onFakeTime(t, fmt.Sprintf("away %v", away), func(t *testing.T) {
			nats, servers := startServers(t, 2)
			nats.SetLatency(300 * time.Millisecond)
			ada, bob := servers[0].join(""), servers[1].join("")
			slow := servers[0].upgrade()
			time.Sleep(3 * time.Second)
			ada.say("one")
			synctest.Wait()
			ada.say("two") // gathers while one is on its way
			synctest.Wait()
			nats.SetAway(away)
			servers[0].network.Window = 0
			servers[0].stop()
			servers[0].wantStopped()
			slow.Close()
			ada.wantClosed(1001, "the server is stopping")
			if away {
				return
			}
			ada.want("one", "two")
			time.Sleep(time.Second)
			bob.want("one", "two")
		})
	}
}

// What is said in a room by somebody who leaves at once, or is closed at once, is kept.
func TestWhatIsSaidOnLeavingIsKept(t *testing.T) {
	for _, closed := range []bool{false, true} {
		onFakeTime(t, fmt.Sprintf("closed %v", closed), func(t *testing.T) {
			nats, servers := startServers(t, 2)
			nats.SetLatency(200 * time.Millisecond)
			ada := servers[0].join("room=team")
			time.Sleep(3 * time.Second)
			nats.SetAway(closed)
			for i := range 5 {
				ada.say(fmt.Sprint(i))
				synctest.Wait()
			}
			ada.leave()
			if closed {
				time.Sleep(5 * time.Second)
				rs := servers[0].rooms
				rs.mu.Lock()
				rs.close("team")
				rs.mu.Unlock()
				nats.SetAway(false)
			}
			time.Sleep(5 * time.Second)
			bob := servers[1].joinV1("room=team")
			time.Sleep(3 * time.Second)
			bob.want("0", "1", "2", "3", "4")
		})
	}
}

// A client that breaks the protocol after it said something learns that this was taken
// before it is told; one that cannot learn it in time is told all the same.
func TestAnOffenderLearnsWhatWasTaken(t *testing.T) {
	for _, away := range []bool{false, true} {
		onFakeTime(t, fmt.Sprintf("away %v", away), func(t *testing.T) {
			nats, servers := startServers(t, 1)
			bob := servers[0].join("")
			ada := servers[0].joinV1("")
			settle()
			ada.take("")
			nats.SetLatency(100 * time.Millisecond)
			nats.SetAway(away)
			begin := time.Now()
			for i := range 3 {
				ada.say(fmt.Sprint(i), fmt.Sprint("r", i))
				synctest.Wait()
			}
			ada.conn.WriteMessage(websocket.BinaryMessage, nil)
			ada.say("never", "r3")
			for ada.isConnected() {
				time.Sleep(100 * time.Millisecond)
			}
			if took := time.Since(begin); took > 4*time.Second {
				t.Errorf("told after %v", took)
			}
			ada.wantClosed(1003, "only text is said here")
			if !away {
				ada.want("0", "1", "2")
			}
			nats.SetAway(false)
			time.Sleep(3 * time.Second)
			bob.want("0", "1", "2")
		})
	}
}

// isConnected reports whether the connection has not ended.
func (p *person) isConnected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err == nil
}

// A room in which something was said that the stream does not have yet is not closed with
// its last client: what was said comes when the stream is back.
func TestWhatIsSaidInANewRoomSurvivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 2)
		ada := servers[0].join("room=team")
		settle()
		nats.SetAway(true)
		ada.say("in the dark")
		time.Sleep(time.Minute)
		ada.wantClosed(1013, "the chat's log is out of reach")
		servers[0].wantClients(0)
		nats.SetAway(false)
		time.Sleep(3 * time.Second)
		bob := servers[1].joinV1("room=team")
		settle()
		bob.want("in the dark")
	})
}

// While the stream can be read and stores nothing, it counts as out of reach, too.
func TestAStreamThatStoresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		nats, servers := startServers(t, 2)
		ada, bob := servers[0].join(""), servers[1].join("")
		settle()
		nats.SetFull(true)
		ada.say("too much")
		time.Sleep(12 * time.Second)
		ada.wantClosed(1013, "the chat's log is out of reach")
		bob.wantHere() // it did not want to say anything
		wantLogged(t, log, 1, "the stream CHAT stores nothing")
		if resp, _ := servers[0].ask(healthCheck); resp.StatusCode != 503 {
			t.Errorf("the server says that it is well: %v", resp.Status)
		}
		nats.SetFull(false)
		time.Sleep(time.Second)
		bob.want("too much")
		if _, body := servers[0].ask(healthCheck); body != "ok" {
			t.Errorf("the server answers %q", body)
		}
	})
}

// While the stream is slow, senders feel backpressure, and all that they send is heard in
// order.
func TestASlowStreamThrottlesSenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 1, unlimited)
		nats.SetLatency(400 * time.Millisecond)
		ada := servers[0].join("")
		time.Sleep(3 * time.Second)
		const count = 5000
		sent := make(chan bool)
		go func() {
			for i := range count {
				ada.say(fmt.Sprint(i))
			}
			close(sent)
		}()
		time.Sleep(100 * time.Millisecond)
		hub := servers[0].rooms.named[lobby].hub
		synctest.Wait()
		if n := len(hub.broadcast); n != broadcastSize {
			t.Errorf("%d messages wait for the hub", n)
		}
		<-sent
		time.Sleep(20 * time.Second)
		var want []string
		for i := range count {
			want = append(want, fmt.Sprint(i))
		}
		ada.want(want...)
	})
}

// Each server says who is on it. One that stops, or is not heard for thirty seconds, is
// forgotten. Who is on two servers counts once.
func TestWhoIsOnlineOnAllServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, servers := startServers(t, 3)
		ada := servers[0].joinV1("key=ada&name=Ada")
		servers[1].joinV1("key=bob&name=Bob")
		servers[1].joinV1("key=ada&name=Ada")
		servers[2].joinV1("room=other&name=Eve")
		wantOnline := func(names ...string) {
			t.Helper()
			notices := ada.take("online")
			if len(notices) == 0 {
				t.Fatal("no notice")
			}
			if last := notices[len(notices)-1]; last.Count != len(names) || !slices.Equal(last.Names, names) {
				t.Errorf("%s, want %q", last.Line, names)
			}
		}
		time.Sleep(3 * time.Second)
		wantOnline("Ada", "Bob")
		servers[2].joinV1("name=Cy")
		time.Sleep(3 * time.Second)
		wantOnline("Ada", "Bob", "Cy")
		servers[2].stop()
		servers[2].wantStopped()
		time.Sleep(3 * time.Second)
		wantOnline("Ada", "Bob")
		for i := range 60 {
			servers[1].join(fmt.Sprint("key=", i))
		}
		time.Sleep(3 * time.Second)
		notices := ada.take("online")
		if last := notices[len(notices)-1]; last.Count != 63 || last.Names != nil { // Ada, who is on both, counts twice now
			t.Errorf("%s", last.Line)
		}
	})
}

// What was said before can be read on each server, whether the room is open there or not, but
// not while the stream is away.
func TestEarlierMessagesOnAllServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nats, servers := startServers(t, 2)
		ada := servers[0].joinV1("room=team")
		settle()
		ada.say("one")
		ada.say("two")
		settle()
		said := lines(ada.take("message"))
		for _, s := range servers {
			if got := s.earlier("room=team"); len(said) != 2 || !slices.Equal(got, said) {
				t.Errorf("%q, want %q", got, said)
			}
			if got := s.earlier("room=empty"); !slices.Equal(got, []string{""}) {
				t.Errorf("a room in which nothing was said has %q", got)
			}
		}
		servers[1].wantRooms(1)
		nats.SetAway(true)
		if resp, body := servers[1].ask(wstest.PlainGet("chat.test", "/history?room=team")); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("a room that cannot be read: %s %v %q", resp.Status, resp.Header, body)
		}
		time.Sleep(15 * time.Second)
		for i, s := range servers {
			if resp, body := s.ask(wstest.PlainGet("chat.test", "/history?room=team")); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
				t.Errorf("while the stream is away: %s %v %q", resp.Status, resp.Header, body)
			}
			s.wantMetrics(fmt.Sprintf(`chat_refusals_total{reason="log_unreachable"} %d`, 1+i)) // the second had one before
		}
	})
}

// Lines of other versions, and what strangers publish, are skipped, counted and logged.
func TestWhatCannotBeReadIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		nats, servers := startServers(t, 1)
		ada := servers[0].joinV1("")
		settle()
		nats.Put("CHAT", "chat.lobby", "", []byte("hello?"))
		time.Sleep(time.Minute) // or the log would leave out what is of the same kind
		nats.Put("CHAT", "chat.lobby", "x.1", []byte(`{"time":"2026-01-02T03:04:05.678Z","more":1,"lines":[{"from":"f","text":" \u0000 "},{"from":"f","name":"A\nB","text":"a\tb","ref":"r","more":1},7]}`))
		time.Sleep(2 * time.Second)
		heard := ada.take("message")
		if len(heard) != 1 || heard[0].Name != "AB" || heard[0].Time != "2026-01-02T03:04:05.678Z" || heard[0].ID%1000 != 1 {
			t.Errorf("received %q", lines(heard))
		}
		servers[0].wantMetrics("chat_nats_unreadable_total 3", "chat_nats_fetched_total 2")
		wantLogged(t, log, 1, "is not a turn of this version")
		wantLogged(t, log, 1, "has 2 lines that no client can have said")
		ada.say("on")
		settle()
		ada.want("on")
	})
}

// A thousand lines from fifty clients of either protocol on two servers reach all of them,
// in one order.
func TestManySpeakOnTwoServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, servers := startServers(t, 2, unlimited)
		var people []*person
		for i := range 50 {
			people = append(people, servers[i%2].mustConnect(fmt.Sprint("key=", i), protocol.Protocol(i/2%2)))
		}
		settle()
		for i, p := range people {
			for n := range 20 {
				p.say(fmt.Sprint(i, " says ", n), fmt.Sprint(n))
			}
		}
		time.Sleep(2 * time.Second)
		want := people[0].texts()
		if len(want) != 1000 {
			t.Errorf("received %d lines", len(want))
		}
		for _, p := range people[1:] {
			p.want(want...)
		}
	})
}
