package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

// Those who speak chat.v1 without a page: many of them cost little.

// member is one connection of someone to a server. It reads all the time.
type member struct {
	t    *testing.T
	conn *websocket.Conn

	mu     sync.Mutex
	events []wstest.Event
	ended  error // how the connection ended; nil before
}

// tryJoin makes one connection, with the query's parameters. The member is nil if there is no
// server, or the answer is another one than that it may come in. It ends with the test.
func tryJoin(t *testing.T, addr string, query url.Values) (m *member, answer *http.Response, err error) {
	dialer := websocket.Dialer{Subprotocols: []string{protocol.Subprotocol}, HandshakeTimeout: 10 * time.Second}
	conn, answer, err := dialer.Dial("ws://"+addr+"/ws?"+query.Encode(), nil)
	if err != nil {
		return nil, answer, err
	}
	t.Cleanup(func() { conn.Close() })
	m = &member{t: t, conn: conn}
	go m.read()
	return m, answer, nil
}

// join lets a member into a room.
func (c *chat) join(room, name string) *member {
	c.t.Helper()
	return c.resume(room, name, "")
}

// resume lets a member in who has received everything up to an id.
func (c *chat) resume(room, name, after string) *member {
	c.t.Helper()
	var m *member
	eventually(c.t, name+" may come in", func() bool {
		var err error
		m, _, err = tryJoin(c.t, c.addr, url.Values{"room": {room}, "name": {name}, "key": {"key of " + name}, "after": {after}})
		return err == nil
	})
	m.wantHello()
	return m
}

func (m *member) read() {
	for {
		_, frame, err := m.conn.ReadMessage()
		var events []wstest.Event
		if err == nil {
			events, err = wstest.Events(protocol.ChatV1, frame)
		}
		m.mu.Lock()
		m.events = append(m.events, events...)
		m.ended = err
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// received returns the events of a type so far.
func (m *member) received(kind string) []wstest.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.events), func(e wstest.Event) bool { return e.Type != kind })
}

// texts returns what was received so far.
func (m *member) texts() []string {
	texts := []string{}
	for _, e := range m.received("message") {
		texts = append(texts, e.Text)
	}
	return texts
}

// say sends a message, with an id of its own or ("") without.
func (m *member) say(text, ref string) {
	m.t.Helper()
	frame, err := json.Marshal(map[string]string{"text": text, "ref": ref})
	if err == nil {
		err = m.conn.WriteMessage(websocket.TextMessage, frame)
	}
	if err != nil {
		m.t.Fatalf("say: %v", err)
	}
}

// wantHello returns the hello, when it is there.
func (m *member) wantHello() wstest.Event {
	m.t.Helper()
	eventually(m.t, "a hello", func() bool { return len(m.received("hello")) > 0 })
	return m.received("hello")[0]
}

// wantTexts fails the test unless exactly these messages have been received in time.
func (m *member) wantTexts(texts ...string) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !slices.Equal(m.texts(), texts); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("received %s", difference(m.texts(), texts))
		}
	}
}

// wantOnline fails the test unless so many are said to be online within a time.
func (m *member) wantOnline(count int, within time.Duration) {
	m.t.Helper()
	last := func() int {
		online := m.received("online")
		return online[len(online)-1].Count
	}
	eventually(m.t, "somebody is online", func() bool { return len(m.received("online")) > 0 })
	for deadline := time.Now().Add(within); last() != count; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%d are online, want %d within %v", last(), count, within)
		}
	}
}

// wantClosed fails the test unless the server closes the connection with a code and a reason.
func (m *member) wantClosed(code int, reason string) {
	m.t.Helper()
	ended := func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.ended
	}
	eventually(m.t, fmt.Sprintf("closed with %d", code), func() bool { return ended() != nil })
	closed, ok := errors.AsType[*websocket.CloseError](ended())
	if !ok || closed.Code != code || !strings.Contains(closed.Text, reason) {
		m.t.Fatalf("the connection ended with %v, want %d %q", ended(), code, reason)
	}
}

// A roamer does over many connections what a page does over them: it connects to any of the
// servers, resumes, and sends again what has not come back. It keeps what it receives.
type roamer struct {
	t    *testing.T
	name string
	room string

	mu       sync.Mutex
	servers  []*chat         // where it may connect
	now      *websocket.Conn // the last one that a server said hello on
	at       *chat           // that server
	heard    []heard
	outbox   []heard // said and not heard; id is 0
	missed   int     // hellos that told of missing messages
	stopping bool
	done     chan struct{}
}

// heard is a message and when a roamer received it, or said it.
type heard struct {
	id   int64
	text string
	at   time.Time
}

// roam lets a roamer in at the first of the servers.
func roam(t *testing.T, name, room string, servers ...*chat) *roamer {
	t.Helper()
	r := &roamer{t: t, name: name, room: room, servers: servers, done: make(chan struct{})}
	connected := make(chan bool)
	go r.run(connected)
	select {
	case <-connected:
	case <-time.After(patience):
		t.Fatalf("%s cannot come in", name)
	}
	t.Cleanup(r.stop)
	return r
}

// stop ends the roamer.
func (r *roamer) stop() {
	r.mu.Lock()
	r.stopping = true
	if r.now != nil {
		r.now.Close()
	}
	r.mu.Unlock()
	<-r.done
}

// run connects again and again until stop, as if behind a balancer: where it is not let in, it
// tries the next server at once.
func (r *roamer) run(connected chan bool) {
	defer close(r.done)
	servers := slices.Clone(r.servers)
	delay := 500 * time.Millisecond // as in the page
	for first := true; ; {
		good := func() {
			if first {
				close(connected)
			}
			first = false
			delay = 500 * time.Millisecond
		}
		for _, c := range servers {
			r.mu.Lock()
			stopping, after := r.stopping, ""
			if len(r.heard) > 0 {
				after = fmt.Sprint(r.heard[len(r.heard)-1].id)
			}
			r.mu.Unlock()
			if stopping {
				return
			}
			if r.connect(c, url.Values{"room": {r.room}, "name": {r.name}, "key": {"key of " + r.name}, "after": {after}}, good) {
				break
			}
		}
		rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
		time.Sleep(rand.N(delay))
		delay = min(2*delay, 15*time.Second)
	}
}

// connect makes one connection, calls good when the server has said hello, and returns when it
// has ended. It reports false if the server does not let it in.
func (r *roamer) connect(c *chat, query url.Values, good func()) bool {
	dialer := websocket.Dialer{Subprotocols: []string{protocol.Subprotocol}, HandshakeTimeout: 10 * time.Second}
	conn, _, err := dialer.Dial("ws://"+c.addr+"/ws?"+query.Encode(), nil)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // for the hello
	for {
		_, frame, err := conn.ReadMessage()
		if err != nil {
			return true
		}
		conn.SetReadDeadline(time.Now().Add(45 * time.Second)) // who is online comes every 30 seconds
		events, err := wstest.Events(protocol.ChatV1, frame)
		if err != nil {
			r.t.Error(err)
		}
		for _, e := range events {
			switch e.Type {
			case "hello":
				good()
				r.hello(e, conn, c)
			case "message":
				r.receive(e)
			}
		}
	}
}

// hello sends again what has not come back.
func (r *roamer) hello(e wstest.Event, conn *websocket.Conn, c *chat) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Missed {
		r.missed++
	}
	r.now, r.at = conn, c
	for _, o := range r.outbox {
		r.write(o)
	}
}

// receive records a message.
func (r *roamer) receive(e wstest.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outbox = slices.DeleteFunc(r.outbox, func(o heard) bool { return o.text == e.Text })
	if n := len(r.heard); n > 0 && e.ID <= r.heard[n-1].id {
		if !slices.ContainsFunc(r.heard, func(h heard) bool { return h.id == e.ID && h.text == e.Text }) || e.Name != r.name {
			r.t.Errorf("%s received %q with the id %d after %d", r.name, e.Text, e.ID, r.heard[n-1].id)
		}
		return // the answer to what it sent again
	}
	r.heard = append(r.heard, heard{e.ID, e.Text, time.Now()})
}

// say says something once, now or when it is connected again.
func (r *roamer) say(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := heard{0, text, time.Now()}
	r.outbox = append(r.outbox, o)
	if r.now != nil {
		r.write(o)
	}
}

// write sends a message. A connection that fails ends, and then it is sent again.
func (r *roamer) write(o heard) {
	frame, _ := json.Marshal(map[string]string{"text": o.text, "ref": r.name + " " + o.text}) // it cannot fail for strings
	r.now.SetWriteDeadline(time.Now().Add(10 * time.Second))
	r.now.WriteMessage(websocket.TextMessage, frame)
}

// server returns where it is connected, or was last.
func (r *roamer) server() *chat {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// waiting returns how many of its messages have not come back.
func (r *roamer) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.outbox)
}

// all returns what it has received so far.
func (r *roamer) all() []heard {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.heard)
}

// wantSame fails the test unless all roamers have received the same messages with the same
// ids, each one's in the order in which it said them, nothing is waiting, and none was told that
// messages are missing. The messages of a talk end with increasing numbers.
func wantSame(t *testing.T, roamers ...*roamer) {
	t.Helper()
	eventually(t, "nothing waits", func() bool {
		return !slices.ContainsFunc(roamers, func(r *roamer) bool { return r.waiting() > 0 })
	})
	key := func(h heard) string { return fmt.Sprint(h.id, " ", h.text) }
	list := func(r *roamer) (keys []string) {
		for _, h := range r.all() {
			keys = append(keys, key(h))
		}
		return keys
	}
	for _, r := range roamers[1:] {
		for deadline := time.Now().Add(patience); !slices.Equal(list(r), list(roamers[0])); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s and %s have not received the same: %s", r.name, roamers[0].name, difference(list(r), list(roamers[0])))
			}
		}
	}
	texts, last := make(map[string]bool), make(map[string]int)
	for _, h := range roamers[0].all() {
		var name string
		var number int
		fmt.Sscanf(h.text, "%s says %d", &name, &number)
		if number <= last[name] {
			t.Errorf("%s is received after what was said later", h.text)
		}
		last[name] = number
		if texts[h.text] {
			t.Errorf("%q was received twice", h.text)
		}
		texts[h.text] = true
	}
	for _, r := range roamers {
		if r.missed > 0 {
			t.Errorf("%s was told %d times that messages are missing", r.name, r.missed)
		}
	}
}
