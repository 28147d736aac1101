package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

const (
	helloTimeout = 10 * time.Second // for the handshake and for the hello, as in the page
	sendTimeout  = 20 * time.Second // for the server to read a message: it reads a throttled client slowly
	closeTimeout = 5 * time.Second  // for the server to answer a close frame: it may have much to send first

	firstDelay = 500 * time.Millisecond // before a second attempt to connect, at most, as in the page; then doubled
	maxDelay   = 15 * time.Second       // before any attempt
)

// A session is a user in one room over all its connections, as a page is: it records what
// the user receives there, and keeps what it sends until that is acknowledged, that is, until
// the user receives it. One goroutine sends, another one receives.
type session struct {
	user *user
	room *room

	mu      sync.Mutex
	lastID  int64      // of the messages received on ChatV1; 0 for none
	helloID int64      // the room's last id, of the last hello
	missed  int64      // as of the next span
	span    *span      // nil if the next message begins one
	sent    int        // messages, resent ones aside
	outbox  []outgoing // not acknowledged
}

// An outgoing message has a text that no other one has.
type outgoing struct{ text, ref string }

// connecting records that the server has accepted a connection. It returns where to resume,
// "" for nowhere, and what to resend. On Classic a span begins, and nothing is resent:
// nobody knows which messages arrived.
func (s *session) connecting() (after string, resend []outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.user.protocol == protocol.Classic {
		s.outbox = nil
		if s.user.soak.nats {
			s.begin(0) // no line is sent twice, and the first that it receives shows where it begins
		} else {
			s.begin(time.Now().UnixMicro())
		}
	}
	if s.lastID > 0 {
		after = fmt.Sprint(s.lastID)
	}
	return after, slices.Clone(s.outbox)
}

// unacknowledged returns how many messages are in the outbox.
func (s *session) unacknowledged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.outbox)
}

// hello records what the server says at the beginning of a connection to p on ChatV1.
func (s *session) hello(e wstest.Event, p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	report := s.user.soak.report
	if e.Room == nil || *e.Room != s.room.name || e.Max != protocol.MaxText {
		report.fault("other", "%s in %q received the hello %s", s.user.id, s.room.name, e.Line)
	}
	switch {
	case s.lastID == 0 && e.Missed:
		report.fault("other", "%s is new in %q and was told that messages are missing", s.user.id, s.room.name)
	case s.lastID > 0 && s.lastID < p.begin && !e.Missed:
		report.fault("other", "%s came back to %q after a restart and was not told that messages may be missing", s.user.id, s.room.name)
	case !e.Missed && e.ID < s.lastID:
		report.fault("other", "%s in %q has received %d, but the hello says that the last is %d", s.user.id, s.room.name, s.lastID, e.ID)
	}
	s.helloID = e.ID
	if e.Missed {
		report.count("connections", "told that messages are missing", 1)
	}
	if e.Missed || s.lastID == 0 {
		s.span, s.missed = nil, 0
		if s.lastID > p.begin { // else they must be: the server was restarted
			s.missed = s.lastID
		}
	}
}

// receive records a message that p sent.
func (s *session) receive(e wstest.Event, p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acknowledge(e)
	if s.user.protocol == protocol.Classic {
		at := p.lastID()
		if s.user.soak.nats {
			at = math.MaxInt64 // ids are no times
		}
		s.span.classic = append(s.span.classic, receipt{hash(e.Line), at, time.Now().UnixMicro()})
		return
	}
	report := s.user.soak.report
	if !s.room.receive(e) {
		report.fault("other", "%s in %q received %d with other content than others: %.200s", s.user.id, s.room.name, e.ID, e.Line)
	}
	if strings.HasPrefix(e.Text, afterBreach) {
		report.fault("other", "%s in %q received %q", s.user.id, s.room.name, e.Text)
	}
	switch {
	case e.ID > s.lastID:
		if s.span == nil {
			s.begin(min(s.helloID, e.ID-1)) // a client that does not resume receives the last few messages
		}
		s.span.ids = append(s.span.ids, e.ID)
		s.lastID = e.ID
	case strings.HasPrefix(e.Ref, s.user.id+"-"):
		report.count("messages", "resent and deduplicated", 1) // the answer to what was resent
	default:
		report.fault("double", "%s in %q received %d %.40q after %d", s.user.id, s.room.name, e.ID, e.Text, s.lastID)
	}
}

// acknowledge removes the message that was received from the outbox, if it is there.
func (s *session) acknowledge(e wstest.Event) {
	i := slices.IndexFunc(s.outbox, func(o outgoing) bool {
		if s.user.protocol == protocol.Classic {
			return classicLine(s.user.name, o.text) == e.Line
		}
		return o.ref == e.Ref
	})
	if i < 0 {
		return
	}
	if text := s.outbox[i].text; e.Ref != "" && e.Text != text {
		s.user.soak.report.fault("other", "%s sent %.60q to %q, but received %.60q", s.user.id, text, s.room.name, e.Text)
	}
	s.outbox = slices.Delete(s.outbox, i, i+1)
}

// begin begins a span, with the messages above an id. The lock must be held.
func (s *session) begin(id int64) {
	s.span = &span{protocol: s.user.protocol, user: s.user.id, missed: s.missed, known: s.helloID, begin: id}
	s.missed = 0
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.room.spans = append(s.room.spans, s.span)
}

// stopped records that the server said that it stops, after all messages.
func (s *session) stopped(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.span == nil {
		s.begin(s.helloID)
	}
	s.span.end = p.lastID()
}

// caughtUp reports whether the user has received what the room had at the last hello. An id
// that nobody has received is that of a new room.
func (s *session) caughtUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	return s.lastID >= s.helloID || s.room.messages[s.helloID] == nil
}

// A conn is a connection of a session to the server, in either protocol. One goroutine,
// receive, reads from it.
type conn struct {
	session *session
	process *process  // the other end
	begin   time.Time // of the attempt to connect
	socket  *socket   // under ws
	ws      *websocket.Conn
	resent  int           // messages that were sent before, on other connections
	prompt  atomic.Bool   // it reads what comes at once and is not to end: the server has no reason to cut it off
	ready   chan struct{} // closed by receive after the hello, if there is one
	done    chan struct{} // closed by receive when the connection has ended
}

// A socket is a TCP connection whose reader may be slow, or stop for a while.
type socket struct {
	*net.TCPConn
	rate   int // bytes a second; 0 for no limit
	frozen atomic.Bool
}

// Read implements net.Conn.
func (s *socket) Read(b []byte) (int, error) {
	if s.rate > 0 {
		time.Sleep(100 * time.Millisecond)
		b = b[:min(len(b), s.rate/10)]
	}
	n, err := s.TCPConn.Read(b)
	for s.frozen.Load() {
		time.Sleep(20 * time.Millisecond)
	}
	return n, err
}

// join connects a session, in as many attempts as it takes, and resends what was not
// acknowledged. The connection reads so many bytes a second, at 0 as fast as it can. It
// returns nil if that did not succeed until end.
func (s *session) join(rate int, end time.Time) *conn {
	for delay := firstDelay; time.Now().Before(end); delay = min(2*delay, maxDelay) {
		if c := s.connect(rate); c != nil {
			return c
		}
		time.Sleep(rand.N(delay))
	}
	return nil
}

// connect makes one attempt to join. It returns nil if that does not succeed.
func (s *session) connect(rate int) *conn {
	server, report := s.user.soak.server(), s.user.soak.report
	tcp, process, answered, err := server.dial(s.user.number, rate > 0)
	if err != nil {
		report.count("connections", "refused", 1)
		return nil
	}
	c := &conn{session: s, process: process, begin: time.Now(), socket: &socket{TCPConn: tcp, rate: rate}, ready: make(chan struct{}), done: make(chan struct{})}
	c.prompt.Store(rate == 0)
	dialer := websocket.Dialer{
		NetDialContext:   func(context.Context, string, string) (net.Conn, error) { return c.socket, nil },
		HandshakeTimeout: helloTimeout,
		ReadBufferSize:   2048,
		WriteBufferSize:  1024,
	}
	after, resend := s.connecting()
	query := url.Values{"room": {s.room.name}, "name": {s.user.name}}
	if s.user.protocol == protocol.ChatV1 {
		dialer.Subprotocols = []string{protocol.Subprotocol}
		query.Set("key", "key of "+s.user.id)
		query.Set("after", after)
	}
	ws, resp, err := dialer.Dial("ws://"+server.addr+"/ws?"+query.Encode(), nil)
	answered()
	if err != nil {
		what := "not answered"
		if resp != nil {
			what = "answered with " + resp.Status
		}
		report.count("connections", what, 1)
		return nil
	}
	report.count("connections", s.user.protocol.String(), 1)
	c.ws = ws
	go c.receive()
	select {
	case <-c.ready:
	case <-c.done:
		return nil
	case <-time.After(helloTimeout):
		c.hangUp()
		return nil
	}
	if c.resent = len(resend); c.resent > 0 {
		s.room.resent(s.helloID, c.resent)
	}
	for _, o := range resend {
		c.write(o)
	}
	return c
}

// receive records what comes, until the connection ends.
func (c *conn) receive() {
	defer close(c.done)
	report := c.session.user.soak.report
	greeted := c.session.user.protocol == protocol.Classic // it has no hello
	if greeted {
		close(c.ready)
	}
	for {
		_, frame, err := c.ws.ReadMessage()
		if err != nil {
			c.ws.Close()
			c.ended(err, greeted)
			return
		}
		events, err := wstest.Events(c.session.user.protocol, frame)
		if err != nil {
			report.fault("other", "%s received %v", c.session.user.id, err)
		}
		for _, e := range events {
			switch {
			case e.Type == "hello" && !greeted:
				c.session.hello(e, c.process)
				greeted = true
				close(c.ready)
			case e.Type == "message" && greeted:
				c.session.receive(e, c.process)
			case e.Type != "online":
				report.fault("other", "%s received a second hello or something before the first: %s", c.session.user.id, e.Line)
			}
		}
	}
}

// ended records how the connection ended.
func (c *conn) ended(err error, greeted bool) {
	user, report := c.session.user, c.session.user.soak.report
	var closed *websocket.CloseError
	if errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
		report.count("close frames", strings.TrimSpace(fmt.Sprint(closed.Code, " ", closed.Text)), 1)
		if closed.Text == "the server is stopping" && greeted && !user.soak.nats { // other servers do not stop
			c.session.stopped(c.process)
		}
		if closed.Code == websocket.CloseServiceRestart { // nobody replaces the log, so nothing may be told that it lost
			report.fault("gap", "%s in %q was told: %s", user.id, c.session.room.name, closed.Text)
		}
	} else if c.prompt.Load() && !c.process.killed.Load() && !c.process.frozenSince(c.begin) {
		report.fault("other", "%s in %q read all the time and was cut off without a close frame: %v", user.id, c.session.room.name, err)
	}
}

// send sends a new message.
func (c *conn) send(text string) {
	s := c.session
	s.mu.Lock()
	s.sent++
	o := outgoing{text, fmt.Sprintf("%s-%d-%s", s.user.id, s.sent, s.room.name)}
	s.outbox = append(s.outbox, o)
	s.mu.Unlock()
	s.user.soak.report.count("messages", "sent", 1)
	c.write(o)
}

// write sends a message. If that fails, the connection ends.
func (c *conn) write(o outgoing) {
	frame := []byte(o.text)
	if c.session.user.protocol == protocol.ChatV1 {
		frame, _ = json.Marshal(map[string]string{"text": o.text, "ref": o.ref}) // it cannot fail for strings
	}
	c.ws.SetWriteDeadline(time.Now().Add(sendTimeout))
	if c.ws.WriteMessage(websocket.TextMessage, frame) != nil {
		c.prompt.Store(false)
		c.ws.Close()
	}
}

// failed reports whether the server owes an answer: it was not told to stop and, where it
// may end connections because NATS fails, has not ended this one.
func (c *conn) failed() bool {
	select {
	case <-c.done:
		return !c.session.user.soak.nats && !c.process.stopping.Load()
	default:
		return !c.process.stopping.Load()
	}
}

// wait waits for d. It reports false, at once, when the connection ends.
func (c *conn) wait(d time.Duration) bool {
	select {
	case <-c.done:
		return false
	case <-time.After(d):
		return true
	}
}

// waitFor waits at most d until condition holds, and reports whether it does.
func (c *conn) waitFor(d time.Duration, condition func() bool) bool {
	for deadline := time.Now().Add(d); !condition() && time.Now().Before(deadline) && c.wait(20*time.Millisecond); {
	}
	return condition()
}

// leave ends the connection with the close handshake.
func (c *conn) leave() {
	c.prompt.Store(false)
	c.socket.frozen.Store(false)
	c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	if c.wait(closeTimeout) {
		c.hangUp()
	}
}

// hangUp ends the connection without a close frame.
func (c *conn) hangUp() {
	c.prompt.Store(false)
	c.socket.frozen.Store(false)
	c.ws.Close()
	<-c.done
}
