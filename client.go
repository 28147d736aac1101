package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

const (
	writeWait  = 10 * time.Second // for a peer to take one frame; up to a second more goes unnoticed
	pongWait   = 60 * time.Second // a peer silent for this long is gone
	pingPeriod = pongWait / 2     // under pongWait by what a ping may wait in line before a slow listener, and its answer take

	closeWait  = 4 * time.Second // for a client let go to take its queue and the close frame; under the five seconds of a stop
	lingerWait = time.Second     // for its peer to hang up after that

	maxCorked = 2 // frames held back at most, to go out in one write with the next; each adds writeWait to what that write may take

	queueSize = 256 // batches that a client may be behind, of at most 64 KiB (a text and a frame on two wires), the same for all

	burst            = 10 * time.Second // what a client may say at once: as much as its rate allows in this time
	throttleLogAfter = 10 * time.Second // held to its rate for this long, it is worth a line in the log
)

// Client is one connection. Two goroutines serve it: readPump, which alone reads
// from it, and writePump, which alone writes messages to it (the library locks
// the line for pongs and for its own close frames) and closes it.
//
// They wake each other so: when reading ends, readPump tells the hub, the hub
// closes send, and writePump says goodbye. When writing ends, writePump closes
// the connection, and reading fails.
type Client struct {
	hub         *Hub
	conn        *websocket.Conn
	protocol    protocol
	peer        string // for the log
	room        string
	name        string   // "" for one who gave none
	userID      string   // tells apart people of one name
	resumeAfter position // where it left off

	send       chan *batch   // closed by the hub, and only by the hub
	done       chan struct{} // closed by the hub together with send, which only writePump may receive from
	disconnect disconnect    // set by the hub before it closes them
	readDone   chan struct{} // closed by readPump when it reads no more

	// writeDeadlineTick is the hub's second by whose end the write under way must be over; 0 when there
	// is none. The hub looks at it: a deadline would do, but costs a timer with every write.
	writeDeadlineTick atomic.Int64

	// owned by readPump
	interval       time.Duration // between messages at full rate; 0 for no limit
	due            time.Time     // when the next message may come, burst aside
	throttledSince time.Time     // since when the client is held to its rate; zero when it is not
	throttleLogged bool          // that was logged
	partial        bool          // a message has begun and is not yet whole
}

// An disconnect says how a connection ends: the close frame's code (RFC 6455,
// section 7.4.1) and reason, in words for the page to show. When it is our doing, it
// also makes a line in the log, and is counted as one of dropReasons.
type disconnect struct {
	code   int
	reason string
	label  string // "" when it is not our doing
}

// serveWs lets a peer into a room, or answers why not. What stands first counts: a
// plain GET, which gets as far as 426, tells a page why it was not let in.
func (s *server) serveWs(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	room, ok := roomName(query.Get("room"))
	if !ok {
		s.counters.refusals.add("room name")
		http.Error(w, fmt.Sprintf("A room's name has up to %d letters, digits, - and _.", maxRoomName), http.StatusBadRequest)
		return
	}
	full := func(reason, what string) {
		s.counters.refusals.add(reason)
		s.log.Printf(reason, "%s refused: %s", peerOf(r), what)
		w.Header().Set("Retry-After", "10")
		http.Error(w, what+" Try again in a while.", http.StatusServiceUnavailable)
	}
	select {
	case s.slots <- struct{}{}:
	default:
		full("full", "The chat is full.")
		return
	}
	leave := func() { <-s.slots }
	if !s.rooms.admits(room) {
		leave()
		full("rooms", "There are too many rooms.")
		return
	}
	if !websocket.IsWebSocketUpgrade(r) || !r.ProtoAtLeast(1, 1) {
		leave()
		s.counters.refusals.add("no WebSocket")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "This address is for WebSocket connections. The page is one level up.", http.StatusUpgradeRequired)
		return
	}
	hub := s.rooms.enter(room)
	if hub == nil {
		leave()
		full("rooms", "There are too many rooms.")
		return
	}
	leave = func() {
		s.rooms.leave(room)
		<-s.slots
	}
	conn, err := s.upgrader.Upgrade(corkOnHijack{w}, r, nil)
	if err != nil {
		leave() // the peer has its answer, or is gone
		return
	}
	conn.SetCompressionLevel(0) // none was agreed on; so a prepared frame is framed once for all

	c := &Client{
		hub:         hub,
		conn:        conn,
		peer:        peerOf(r),
		room:        room,
		name:        strings.Clone(cleanName(query.Get("name"))), // not a piece of the request, which it outlives
		userID:      s.userID(query.Get("key")),
		resumeAfter: parsePosition(query.Get("after")),
		send:        make(chan *batch, queueSize),
		done:        make(chan struct{}),
		readDone:    make(chan struct{}),
	}
	if conn.Subprotocol() == subprotocol {
		c.protocol = chatV1
	}
	s.counters.connections[c.protocol].Add(1)
	if s.rate > 0 {
		c.interval = time.Duration(float64(time.Second) / s.rate)
	}
	if !offer(c.hub, c.hub.register, c) {
		c.startClose(stopping)
	}
	go c.readPump()
	go func() {
		c.writePump()
		s.counters.left[c.protocol].Add(1)
		leave()
	}()
}

// A position is the id of the last message that a client has seen.
type position int64

const (
	noPosition      position = -1            // it has seen none
	unknownPosition position = math.MaxInt64 // it has, but not here
)

// parsePosition reads what a client says of where it left off. What it cannot read
// is a position that is not known here.
func parsePosition(after string) position {
	if after == "" {
		return noPosition
	}
	id, err := strconv.ParseInt(after, 10, 64)
	if err != nil || id < 0 {
		return unknownPosition
	}
	return position(id)
}

// startClose tells both pumps that the client is to go. The hub calls it, once, for
// each client it has had, and serveWs for one that the hub will never have.
func (c *Client) startClose(e disconnect) {
	c.disconnect = e
	close(c.done)
	close(c.send)
	time.AfterFunc(closeWait, func() { c.conn.Close() }) // whatever the pumps are doing then
}

// shownName is what chat.v1 clients see of the name.
func (c *Client) shownName() string {
	if c.name == "" {
		return "guest"
	}
	return c.name
}

// String names the client in the log.
func (c *Client) String() string {
	if c.name == "" {
		return c.peer
	}
	return fmt.Sprintf("%s (%q)", c.peer, c.name)
}

// readPump brings what the peer says to the hub, until one of the three goes. Then
// it reads on without listening: a socket closed with unread input resets the
// line, and a reset takes with it what the peer has not read yet, the reason first.
func (c *Client) readPump() {
	defer close(c.readDone)
	e := c.readMessages()
	offer(c.hub, c.hub.unregister, leave{c, e})
	c.conn.SetReadDeadline(time.Time{}) // from here on writePump decides how long
	io.Copy(io.Discard, c.conn.NetConn())
}

// errDisconnected is what readPump gets when it asks on behalf of a client that was dropped.
var errDisconnected = errors.New("dropped")

// errPongTimeout is what readPump gets when the peer did not take the pong it had asked for.
var errPongTimeout = errors.New("pong not taken")

var (
	stopping       = disconnect{websocket.CloseGoingAway, "the server is stopping", ""}
	tooLong        = disconnect{websocket.CloseMessageTooBig, fmt.Sprintf("a message may have %d bytes", maxText), "too long"}
	writeTimeout   = disconnect{websocket.CloseTryAgainLater, fmt.Sprintf("did not take a frame within %v", writeWait), "stuck"}
	slowConsumer   = disconnect{websocket.CloseTryAgainLater, "too slow", "too slow"}
	idleTimeout    = disconnect{websocket.CloseGoingAway, fmt.Sprintf("nothing heard for %v", pongWait), "silent"}
	messageTimeout = disconnect{websocket.CloseGoingAway, fmt.Sprintf("a message was not whole within %v", pongWait), "half said"}
)

// readMessages hands the peer's messages to the hub and returns how that came to an end.
func (c *Client) readMessages() disconnect {
	// A ping or a pong shows that the peer lives, but does not excuse a message
	// that never becomes whole. Either costs as much as a message: to read it is as much work.
	alive := func() error {
		if err := c.throttle(); err != nil {
			return err
		}
		if !c.partial {
			c.conn.SetReadDeadline(time.Now().Add(pongWait))
		}
		return nil
	}
	c.conn.SetPongHandler(func(string) error { return alive() })
	c.conn.SetPingHandler(func(payload string) error {
		if err := alive(); err != nil {
			return err
		}
		// The pong has as long as the longest write, which the peer may be busy with.
		err := c.conn.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add((1+maxCorked)*writeWait))
		if isTimeout(err) {
			return errPongTimeout
		}
		return nil // if the line is broken, reading will show it
	})
	// writePump answers a close frame, after what is in the queue.
	c.conn.SetCloseHandler(func(int, string) error { return nil })

	for {
		c.conn.SetReadDeadline(time.Now().Add(pongWait))
		messageType, r, err := c.conn.NextReader()
		if err != nil {
			return disconnectFor(err)
		}
		if messageType != websocket.TextMessage {
			return disconnect{websocket.CloseUnsupportedData, "only text is said here", "not text"}
		}
		c.conn.SetReadDeadline(time.Now().Add(pongWait)) // to have it whole
		c.partial = true
		m, bad := c.read(r)
		if bad != nil {
			return *bad
		}
		c.partial = false
		if err := c.throttle(); err != nil {
			return disconnectFor(err)
		}
		if m.text != "" && !offer(c.hub, c.hub.broadcast, m) {
			return stopping
		}
	}
}

var readBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// read reads a message to its end and checks it. However long its frames say it is,
// no more is allocated than has come. When it is not as it should be, the ending says why.
func (c *Client) read(r io.Reader) (message, *disconnect) {
	limit := maxText
	if c.protocol == chatV1 {
		limit = maxClientFrame
	}
	buf := readBuffers.Get().(*bytes.Buffer)
	defer readBuffers.Put(buf)
	buf.Reset()
	if _, err := buf.ReadFrom(io.LimitReader(r, int64(limit)+1)); err != nil {
		e := disconnectFor(err)
		if e == idleTimeout {
			e = messageTimeout
		}
		return message{}, &e
	}
	frame := buf.Bytes()
	if len(frame) > limit {
		return message{}, &tooLong
	}
	if !utf8.Valid(frame) {
		return message{}, &disconnect{websocket.CloseInvalidFramePayloadData, "text must be UTF-8", "not UTF-8"}
	}
	if c.protocol == classic {
		return message{sender: c, text: cleanText(string(frame))}, nil
	}
	s, bad := decodeClientMessage(frame)
	return message{sender: c, text: cleanText(s.Text), clientMsgID: s.Ref}, bad
}

// disconnectFor says how to end a connection from which reading gave err.
func disconnectFor(err error) disconnect {
	var closed *websocket.CloseError
	var broken net.Error
	switch {
	case errors.As(err, &closed):
		switch closed.Code {
		case websocket.CloseNoStatusReceived, websocket.CloseAbnormalClosure: // no code to send back
			return disconnect{websocket.CloseNormalClosure, "goodbye", ""}
		}
		return disconnect{closed.Code, "goodbye", ""}
	case errors.Is(err, websocket.ErrReadLimit): // a length with its first bit set
		return tooLong
	case errors.Is(err, errPongTimeout):
		return slowConsumer
	case isTimeout(err):
		return idleTimeout
	case errors.As(err, &broken), errors.Is(err, io.EOF), errors.Is(err, errDisconnected):
		return disconnect{websocket.CloseNormalClosure, "goodbye", ""}
	}
	// What is left is what the library calls a breach of the protocol, and has told the peer.
	return disconnect{websocket.CloseProtocolError, strings.TrimPrefix(err.Error(), "websocket: "), "protocol"}
}

// isTimeout reports whether err says that a deadline has passed.
func isTimeout(err error) bool {
	var broken net.Error
	return errors.As(err, &broken) && broken.Timeout()
}

// throttle holds a client to its rate by pausing the pump that reads from it: nothing
// is lost, its line fills up, and nobody else notices. It returns errGone, at
// once, when the client has been dropped.
func (c *Client) throttle() error {
	select {
	case <-c.done:
		return errDisconnected
	default:
	}
	if c.interval == 0 {
		return nil
	}
	now := time.Now()
	if earliest := now.Add(-burst); c.due.Before(earliest) {
		c.due = earliest
	}
	c.due = c.due.Add(c.interval)
	pause := c.due.Sub(now)
	switch {
	case pause <= 0:
		c.throttledSince, c.throttleLogged = time.Time{}, false
		return nil
	case c.throttledSince.IsZero():
		c.throttledSince = now
	case !c.throttleLogged && now.Sub(c.throttledSince) >= throttleLogAfter:
		c.throttleLogged = true
		c.hub.journal.Printf("paced", "%s says more than -rate allows: it is read more slowly", c)
	}
	select {
	case <-c.done:
		return errDisconnected
	case <-time.After(pause):
		return nil
	}
}

// writePump brings what the hub hands out to the peer, until the hub closes send
// or the peer takes no more, and then ends the connection. It returns when
// nothing of the client is left.
func (c *Client) writePump() {
	err := c.writeBatches()
	if err == nil {
		farewell := websocket.FormatCloseMessage(c.disconnect.code, c.disconnect.reason)
		err = c.conn.WriteControl(websocket.CloseMessage, farewell, time.Now().Add(closeWait))
	}
	if err == nil || err == websocket.ErrCloseSent { // the library has sent its own, in answer to a breach
		c.linger()
	}
	c.conn.Close()
	<-c.readDone
	<-c.done // as the hub has heard from readPump, if it did not know
	if c.disconnect.label != "" {
		c.hub.counters.drops.add(c.disconnect.label)
		c.hub.journal.Printf("dropped", "%s dropped: %s", c, c.disconnect.reason)
	}
}

// linger gives the peer time to read to the end and hang up first.
func (c *Client) linger() {
	if conn, ok := c.conn.NetConn().(*corkedConn).Conn.(interface{ CloseWrite() error }); ok {
		conn.CloseWrite() // an error says that there is nobody to tell
	}
	select {
	case <-c.readDone:
	case <-time.After(lingerWait):
	}
}

// A corkedConn is a client's connection as the library writes to it. While the cork is in,
// what is written waits here, and goes out with what comes next in one write(2). It waits
// by reference, so that only frames which nobody changes may: those that are prepared.
type corkedConn struct {
	net.Conn
	cork bool // writePump's: another frame follows

	// under the library's lock
	held     net.Buffers
	deadline bool // there is one for writing
}

// Write writes p behind what waits, or has it wait, too. A control frame, whose opcode is
// 8 or more (RFC 6455, section 5.2), never waits: it may be the last.
func (c *corkedConn) Write(p []byte) (int, error) {
	switch {
	case p[0]&8 == 0 && c.cork:
		c.held = append(c.held, p)
		return len(p), nil
	case len(c.held) == 0:
		return c.Conn.Write(p)
	}
	all := append(c.held, p)
	c.held = all[:0]
	if _, err := all.WriteTo(c.Conn); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetWriteDeadline passes on what changes something. With each frame the library says
// again that there is none.
func (c *corkedConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() && !c.deadline {
		return nil
	}
	c.deadline = !t.IsZero()
	return c.Conn.SetWriteDeadline(t)
}

// corkOnHijack is the answer to a handshake, whose connection it hands on corked.
type corkOnHijack struct{ http.ResponseWriter }

func (w corkOnHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	return &corkedConn{Conn: conn}, buffered, err
}
