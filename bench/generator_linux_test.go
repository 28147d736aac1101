package main

import (
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/protocol"
)

// A room that lies: it passes on every line to everyone, in one order, but tells the last
// who came in something else, if lie says so. It gets how many lines went before.
type testRoom struct {
	lie    func(before int, line string) []string
	forget int // after so many lines no more are passed on; 0 is never

	mu      sync.Mutex
	clients []*websocket.Conn
	before  int
}

func (r *testRoom) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	upgrader := websocket.Upgrader{Subprotocols: []string{"other"}}
	conn, err := upgrader.Upgrade(w, request, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	r.mu.Lock()
	r.clients = append(r.clients, conn)
	r.mu.Unlock()
	for {
		_, line, err := conn.ReadMessage()
		if err != nil {
			return
		}
		r.say(string(line))
	}
}

func (r *testRoom) say(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.forget > 0 && r.before >= r.forget {
		return
	}
	for i, conn := range r.clients {
		lines := []string{line}
		if i == len(r.clients)-1 && r.lie != nil {
			lines = r.lie(r.before, line)
		}
		if lines != nil {
			conn.WriteMessage(websocket.TextMessage, []byte(strings.Join(lines, "\n")))
		}
	}
	r.before++
}

// load puts the room under a short load, or what change makes of it. The first eight
// lines are said however slow this machine is.
func (r *testRoom) load(t *testing.T, change func(*loadSpec)) result {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r}
	go server.Serve(l)
	defer server.Close()
	spec := loadSpec{
		listeners: 20, speakers: 4, inFlight: 2,
		settle: 10 * time.Millisecond, warmUp: 10 * time.Millisecond, window: 30 * time.Millisecond, idleTimeout: 2 * time.Second,
	}
	if change != nil {
		change(&spec)
	}
	result, err := generate(t.Context(), spec, l.Addr().String(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// briefly is for rooms that are known to be silent in the end.
func briefly(spec *loadSpec) { spec.idleTimeout = 50 * time.Millisecond }

func TestHonestRoom(t *testing.T) {
	r := new(testRoom).load(t, nil)
	if r.fault != "" || r.joined != 20 || r.disconnected != 0 || r.cpu <= 0 || r.ownCPU <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestFixedRate(t *testing.T) {
	const stall = 20 * time.Millisecond
	room := &testRoom{lie: func(before int, line string) []string {
		if before == 25 { // in the window: everyone waits
			time.Sleep(stall)
		}
		return []string{line}
	}}
	r := room.load(t, func(spec *loadSpec) {
		spec.rate, spec.inFlight = 1000, 0
		spec.window = 50 * time.Millisecond
	})
	room.mu.Lock()
	defer room.mu.Unlock()
	if r.fault != "" || room.before != 60 { // what was due while it stalled was said all the same, and counts as late
		t.Errorf("%d lines, %+v", room.before, r)
	}
	if r.p99 < stall/2 || r.p50 <= 0 {
		t.Errorf("latency %v median, %v p99", r.p50, r.p99)
	}
}

func TestLyingRoom(t *testing.T) {
	var kept string
	for what, lie := range map[string]func(before int, line string) []string{
		"drops a line": func(before int, line string) []string {
			if before == 5 {
				return nil
			}
			return []string{line}
		},
		"falls silent for one": func(before int, line string) []string {
			if before >= 5 {
				return nil
			}
			return []string{line}
		},
		"doubles a line": func(before int, line string) []string {
			if before == 5 {
				return []string{line, line}
			}
			return []string{line}
		},
		"swaps two lines": func(before int, line string) []string {
			switch before {
			case 5:
				kept = line
				return nil
			case 6:
				return []string{line, kept}
			}
			return []string{line}
		},
	} {
		if r := (&testRoom{lie: lie}).load(t, briefly); r.fault == "" {
			t.Errorf("a room that %s: no fault in %+v", what, r)
		}
	}
}

func TestRoomThatThrowsOut(t *testing.T) {
	room := new(testRoom)
	room.lie = func(before int, line string) []string {
		if before == 5 {
			room.clients[3].Close()
		}
		return []string{line}
	}
	if r := room.load(t, nil); r.fault != "" || r.disconnected != 1 {
		t.Errorf("%d thrown out, %v", r.disconnected, r)
	}
}

// A speaker whose line goes missing for all would wait for it for ever.
func TestRoomThatForgets(t *testing.T) {
	room := new(testRoom)
	room.forget = 5
	if r := room.load(t, briefly); r.fault == "" {
		t.Errorf("%+v", r)
	}
}

func TestRoomWithoutTheSubprotocol(t *testing.T) {
	if r := new(testRoom).load(t, func(spec *loadSpec) { spec.subprotocol = protocol.Subprotocol }); r.fault != "does not speak chat.v1" {
		t.Errorf("%+v", r)
	}
}
