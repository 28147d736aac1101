package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/backlog"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// What hostile clients cost, in sum: each limit that no single client exceeds.

// A message that is begun and not finished costs little more than what was sent of it,
// and if it is long, not for long.
func TestHalfAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		clients := make([]*raw, 200)
		for i := range clients {
			clients[i] = chat.upgradeTo("", protocol.ChatV1)
		}
		const sent = protocol.MaxClientFrame - 1024
		growth, _ := memoryOf(func() {
			for _, c := range clients {
				c.send(wstest.Lying(wstest.Fin|wstest.Text, protocol.MaxClientFrame, ""))
				for range sent / 1024 { // in parts, so that the network in memory takes up little
					c.send(strings.Repeat("x", 1024))
					synctest.Wait()
				}
			}
		})
		if each := growth / len(clients); each > protocol.MaxClientFrame*5/4 {
			t.Errorf("%d bytes sent cost %d", sent, each)
		}
		begin := time.Now()
		time.Sleep(largeMessageWait - time.Second)
		chat.wantClients(len(clients))
		for _, c := range clients {
			c.wantClosed(1001)
		}
		if took := time.Since(begin); took > largeMessageWait+time.Second {
			t.Errorf("disconnected after %v", took)
		}
	})
}

// A long message that takes its time, but comes, is received.
func TestLongMessageOnASlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.joinV1("")
		slow := chat.upgradeTo("", protocol.ChatV1)
		text := strings.Repeat("x", protocol.MaxText)
		frame := wstest.Masked(wstest.Fin|wstest.Text, `{"text":"`+text+`","more":"`+strings.Repeat("y", 20<<10)+`"}`)
		go func() {
			for len(frame) > 0 { // 100 bytes a second, then 4 KiB
				n := 4 << 10
				if len(frame) > 22<<10 {
					n = 100
				}
				n = min(n, len(frame))
				io.WriteString(slow.Conn, frame[:n])
				frame = frame[n:]
				time.Sleep(time.Second)
			}
		}()
		time.Sleep(pongWait - time.Second)
		ada.want(text)
	})
}

// A header that promises too much is answered before any of it has come.
func TestLyingLengthIsAnsweredAtOnce(t *testing.T) {
	for _, header := range []string{
		wstest.Lying(wstest.Fin|wstest.Text, protocol.MaxText+1, ""),
		wstest.Lying(wstest.Fin|wstest.Text, 1<<40, ""),
		wstest.Masked(wstest.Text, "x") + wstest.Lying(wstest.Fin|wstest.Continuation, protocol.MaxText, ""),
	} {
		synctest.Test(t, func(t *testing.T) {
			chat := startChat(t)
			log := captureLog(t)
			liar := chat.upgrade()
			begin := time.Now()
			liar.send(header)
			liar.wantClosed(1009)
			if took := time.Since(begin); took != 0 {
				t.Errorf("after %v", took)
			}
			wantLogged(t, log, 1, protocol.MessageTooBig.Reason)
		})
	}
}

// Four connections at a time that come, say their burst and go: they are heard at the rate
// of their address, not at that of all the connections that it made. Nobody else waits.
func TestReconnectingDoesNotEvadeTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		chat.network.PeerAddr = "192.0.2.9:1"
		ada := chat.join("")
		chat.network.PeerAddr = "192.0.2.2:1"
		end := time.Now().Add(time.Minute)
		for range 4 {
			go func() {
				for time.Now().Before(end) {
					conn, err := chat.network.Dial(t.Context(), "", "")
					if err != nil {
						return
					}
					io.WriteString(conn, handshake)
					if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
						io.WriteString(conn, strings.Repeat(wstest.Masked(wstest.Fin|wstest.Text, "spam"), 100))
					}
					time.Sleep(10 * time.Millisecond)
					conn.Close()
					time.Sleep(10 * time.Millisecond)
				}
			}()
		}
		spam := 0
		for i := range 60 {
			time.Sleep(time.Second)
			ada.say(fmt.Sprint("calm ", i))
			time.Sleep(maxHold)
			received := ada.texts()
			if !slices.Contains(received, fmt.Sprint("calm ", i)) {
				t.Fatal("another address waits, too")
			}
			spam += len(received) - 1
		}
		if most := 1000 + 62*100; spam > most || spam < most/2 {
			t.Errorf("received %d times in a minute, want %d at most, and more than half of that", spam, most)
		}
		// Places are free again soon, though what was said was not read.
		time.Sleep(3 * time.Second)
		chat.wantClients(1)
	})
}

// Thirty people behind one address chat as if they were not.
func TestClassBehindOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		class := make([]*person, 30)
		for i := range class {
			class[i] = chat.joinV1("")
		}
		for range 60 { // one line every two seconds from each
			for _, p := range class {
				p.say("answer")
			}
			synctest.Wait()
			for _, p := range class {
				if n := len(p.texts()); n != len(class) {
					t.Fatalf("%d lines at once, want %d", n, len(class))
				}
			}
			time.Sleep(2 * time.Second)
		}
	})
}

// A client whose address sends too much waits for its turn, and shows in the metrics.
func TestThrottledAddressShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		for range 20 {
			go chat.upgrade().Write([]byte(strings.Repeat(wstest.Masked(wstest.Fin|wstest.Text, "spam"), 90)))
		}
		time.Sleep(time.Second)
		if n := len(ada.texts()); n < 1050 || n > 1110 {
			t.Errorf("heard %d lines within a second, want about 1,100", n)
		}
		chat.wantMetrics("chat_throttled_addresses 1")
		time.Sleep(10 * time.Second)
		if n := len(ada.texts()); n < 690 || n > 710 {
			t.Errorf("heard %d of the last 700 lines", n)
		}
		chat.wantMetrics("chat_throttled_connections 0", "chat_throttled_addresses 0")
	})
}

// An address that makes many rooms waits for each, if not for long.
func TestRoomsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		begin := time.Now()
		for i := range 200 {
			chat.upgradeTo(fmt.Sprint("room=r", i), protocol.Classic)
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("200 rooms took %v, want 10s", took)
		}
		begin = time.Now()
		chat.network.PeerAddr = "192.0.2.9:1"
		chat.upgradeTo("room=another", protocol.Classic)
		chat.network.PeerAddr = "192.0.2.2:1"
		chat.upgradeTo("room=another", protocol.Classic) // is there already
		if took := time.Since(begin); took != 0 {
			t.Errorf("others wait for %v", took)
		}
	})
}

// One who walks through two thousand rooms and says a line in each closes only rooms in
// which nobody else spoke. What two said to each other stays.
func TestRoomWalkLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada, bob := chat.join("room=team"), chat.join("room=team")
		ada.say("are you there?")
		bob.want("are you there?")
		bob.say("I am")
		chat.join("room=diary").say("only me")
		for _, p := range []*person{ada, bob} {
			p.leave()
		}
		for i := range 2000 {
			walker := chat.join(fmt.Sprint("key=walker&room=walk", i))
			walker.say("I was here")
			walker.leave()
			synctest.Wait()
			time.Sleep(time.Millisecond)
		}
		chat.wantRooms(maxRooms)
		chat.joinV1("room=team").want("are you there?", "I am")
		chat.joinV1("room=walk0").want()
		chat.joinV1("room=walk1999").want("I was here")
	})
}

// Idle HTTP connections beyond what there is place for make place for a newcomer, at once,
// and nobody in the chat notices. Those that stay idle are closed after a while.
func TestIdleHTTPMakesPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, func(s *server) { s.slots = make(chan struct{}, 10) })
		ada := chat.join("")
		for range 2 * (extraConns + 10) {
			chat.dial()
		}
		synctest.Wait()
		begin := time.Now()
		bob := chat.join("")
		if took := time.Since(begin); took != 0 {
			t.Errorf("a newcomer waited for %v", took)
		}
		if n := chat.network.Open(); n > extraConns+10+1 {
			t.Errorf("%d connections", n)
		}
		chat.wantMetrics(fmt.Sprint("chat_http_connections ", extraConns+10-2))
		ada.say("hello")
		bob.want("hello")
		time.Sleep(idleTimeoutHTTP + time.Second)
		if n := chat.network.Open(); n != 2 {
			t.Errorf("%d connections after %v", n, idleTimeoutHTTP)
		}
		// The places come back: many who come and go are not counted for ever.
		for range 3 * (extraConns + 10) {
			chat.join("").leave()
			chat.ask(strings.Replace(handshake, wstest.HandshakeKey, "short", 1))
		}
	})
}

// Clients that do not read, a few in each of many rooms: what is queued for them in sum is
// bounded, they are told why they go, and nobody who reads notices.
func TestSlowConsumersInManyRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rooms, limit = 40, 8 << 20
		chat := startChat(t, unlimited)
		chat.rooms.backlog = backlog.WithLimit(limit)
		speakers := make([]*person, rooms)
		for i := range speakers {
			room := fmt.Sprint("room=r", i)
			speakers[i] = chat.join(room)
			window := chat.network.Window
			chat.network.Window = 4 << 10
			for range 2 {
				chat.upgradeTo(room, protocol.ChatV1)
			}
			chat.network.Window = window
		}
		most := int64(0)
		text := strings.Repeat("x", protocol.MaxText)
		for range 300 { // far more than fits into all queues
			for _, p := range speakers {
				p.say(text)
			}
			synctest.Wait()
			most = max(most, chat.rooms.backlog.Bytes())
			for _, p := range speakers {
				p.want(text)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if most > limit*5/4 {
			t.Errorf("up to %d bytes were queued, the limit is %d", most, limit)
		}
		if most < limit/2 {
			t.Errorf("only %d bytes were queued, which shows nothing", most)
		}
		chat.wantClients(rooms)
		chat.wantMetrics(fmt.Sprintf("chat_drops_total{reason=%q} %d", protocol.SlowConsumer, 2*rooms))
	})
}

// A client that reads all the time, but less than is said, is disconnected when it is half a
// minute behind, and told why.
func TestHalfAMinuteBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t, unlimited)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		slow := chat.upgrade().readSlowly(2000)
		begin := time.Now()
		for range 150 {
			ada.say(strings.Repeat("x", 3000))
			time.Sleep(time.Second)
			if slow.count("too slow") > 0 {
				break
			}
		}
		// It falls a third of a second behind in each second.
		if took := time.Since(begin); took < 75*time.Second || took > 105*time.Second {
			t.Errorf("disconnected after %v", took)
		}
		chat.wantClients(1)
		wantLogged(t, log, 1, "disconnected: too slow")
	})
}
