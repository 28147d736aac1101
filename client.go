package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/budget"
	"chat/internal/cork"
	"chat/internal/history"
	"chat/internal/inbound"
	"chat/internal/natslog"
	"chat/internal/protocol"
	"chat/internal/queue"
	"chat/internal/socket"
)

const (
	// writeWait is how long a peer may take to receive one frame. The hub looks once in a
	// tickPeriod, and so may notice up to that later.
	writeWait = 10 * time.Second

	// pongWait is how long a peer may be silent, and how long a message may take to come.
	pongWait = 60 * time.Second

	// smallMessage is the length in bytes up to which a message may take pongWait to come.
	smallMessage = 4 << 10

	// largeMessageWait is how long a message may take once it is longer than that: it takes
	// up memory.
	largeMessageWait = 10 * time.Second

	// pingPeriod is how often peers are pinged. The rest of pongWait is for the ping to
	// wait behind what is on its way to a slow reader, and for the answer.
	pingPeriod = pongWait / 2

	// closeWait is how long a disconnected client has to receive its queue and the close
	// frame; a slow consumer has lingerWait while memory is short. It is under the five
	// seconds that a stop may take.
	closeWait = 4 * time.Second

	// lingerWait is how long a peer has to hang up after the close frame.
	lingerWait = time.Second

	// queueSize is how many batches a client may be behind. A batch is at most 32 KiB, a frame
	// of 16 KiB in each of two protocols, and is the same for all clients.
	queueSize = 256

	// burst is how much a client may send at once: as much as its rate allows in this time.
	burst = 10 * time.Second

	// throttleLogAfter is how long a client is throttled before the log says so.
	throttleLogAfter = 10 * time.Second
)

// The reasons for which a connection ends, beside what protocol says of bad input.
var (
	goodbye        = protocol.Disconnect{Code: websocket.CloseNormalClosure, Reason: "goodbye"}
	stopping       = protocol.Disconnect{Code: websocket.CloseGoingAway, Reason: "the server is stopping"}
	slowConsumer   = protocol.Disconnect{Code: websocket.CloseTryAgainLater, Reason: "too slow", Cause: protocol.SlowConsumer}
	writeTimeout   = protocol.Disconnect{Code: websocket.CloseTryAgainLater, Reason: fmt.Sprintf("did not take a frame within %v", writeWait), Cause: protocol.WriteTimedOut}
	idleTimeout    = protocol.Disconnect{Code: websocket.CloseGoingAway, Reason: fmt.Sprintf("nothing heard for %v", pongWait), Cause: protocol.Idle}
	messageTimeout = protocol.Disconnect{Code: websocket.CloseGoingAway, Reason: fmt.Sprintf("a message was not whole within %v", pongWait), Cause: protocol.IncompleteMessage}

	largeMessageTimeout = protocol.Disconnect{Code: websocket.CloseGoingAway, Reason: fmt.Sprintf("a long message was not whole within %v", largeMessageWait), Cause: protocol.IncompleteMessage}
)

// Client is one connection. Two goroutines serve it: readPump, which alone reads from the
// connection, and writePump, which alone writes messages to it and closes it. (The library
// writes pongs, and close frames of its own: package cork has the lock.)
//
// They wake each other so: when reading ends, readPump tells the hub, the hub calls
// startClose, and writePump sends the close frame. When writing ends, writePump closes the
// connection, and reading fails.
type Client struct {
	hub         *Hub
	conn        *websocket.Conn
	corked      *cork.Conn // under conn; for frames to the peer
	protocol    protocol.Protocol
	peer        string // for the log
	room        string
	name        string // "" if it gave none
	userID      string // tells apart people of one name
	resumeAfter history.Position
	arrival     natslog.Arrival // 0 before it asked a shared log to be admitted. Owned by the hub
	pageURL     string          // at which other machines open the room; "" if the client is not to know

	admitted   chan struct{}        // closed by the hub when the client is in the room
	send       *queue.Queue[*batch] // closed by startClose; only writePump takes from it
	done       chan struct{}        // closed by startClose
	reason     protocol.Disconnect  // set by startClose before that
	closeTimer *time.Timer          // set by startClose before that
	readDone   chan struct{}        // closed by readPump when it returns

	// writeDeadlineTick is the last of the hub's ticks in which the write under way may go on;
	// 0 when there is none. The hub looks at it. A deadline of the connection would
	// do, but costs a timer with every write.
	writeDeadlineTick atomic.Int64

	// queuedTick is the hub's tick in which the batch that is being written was queued; 0 if
	// that does not matter.
	queuedTick atomic.Int64

	// owned by readPump
	interval       time.Duration  // between messages at the full rate; 0 for no limit
	budget         *budget.Budget // of the peer's address
	due            time.Time      // when the next message may come, burst aside
	throttledSince time.Time      // zero when the client is not throttled
	throttleLogged bool           // since then
	partial        bool           // a message has begun and is not complete
}

// serveWs upgrades a request that the server admitted, and starts the pumps of c, whose
// identity the server has filled in. It calls release, once, when nothing of the connection
// is left; hijacked reports whether the connection was taken over from the HTTP server.
func serveWs(c *Client, upgrader *websocket.Upgrader, w http.ResponseWriter, r *http.Request, release func(hijacked bool)) {
	h := &inbound.Hijacker{ResponseWriter: w}
	conn, err := upgrader.Upgrade(h, r, nil)
	if err != nil {
		release(h.Conn != nil) // the peer has its answer, sent something before it had, or is gone
		return
	}
	c.conn, c.corked = conn, h.Conn.Conn
	if conn.Subprotocol() == protocol.Subprotocol {
		c.protocol = protocol.ChatV1
	}
	h.Conn.Limit = c.protocol.ReadLimit()
	c.admitted = make(chan struct{})
	c.send = queue.New[*batch](queueSize)
	c.done = make(chan struct{})
	c.readDone = make(chan struct{})
	c.hub.counters.Accepted[c.protocol].Add(1)
	if !offer(c.hub, c.hub.register, c) {
		c.startClose(stopping, lingerWait) // nothing is in its queue
	}
	go c.readPump()
	go func() {
		c.writePump()
		c.hub.counters.Ended[c.protocol].Add(1)
		release(true)
	}()
}

// startClose starts the end of the connection. It is called once: by the hub for a client
// that it registered, else by serveWs. A client ends like this:
//
//  1. Reading ends, and readPump asks the hub to unregister the client; or the hub finds
//     a reason by itself. Either way the hub calls startClose.
//  2. done is closed: readPump stops handing messages to the hub. From then on it reads and
//     discards, so that no unread input makes the socket reset the connection: a reset
//     would discard what the peer has not read yet, the close frame first.
//  3. send is closed: writePump writes what is in the queue (for a slow consumer nothing
//     more), then the close frame, and shuts down its side of the connection.
//  4. The peer hangs up, or lingerWait passes, or wait since startClose: writePump closes
//     the connection, which ends readPump, too.
//  5. writePump counts and logs the disconnect, if the client did not leave by itself.
//     Then release gives back its place in the server and the room.
func (c *Client) startClose(reason protocol.Disconnect, wait time.Duration) {
	c.reason = reason
	c.closeTimer = time.AfterFunc(wait, func() { c.conn.Close() }) // whatever the pumps are doing then
	close(c.done)
	c.send.Close()
}

// String names the client in the log.
func (c *Client) String() string {
	if c.name == "" {
		return c.peer
	}
	return fmt.Sprintf("%s (%q)", c.peer, c.name)
}

// readPump hands the peer's messages to the hub, until the connection, the client or the
// hub ends. Then it reads and discards until writePump closes the connection.
func (c *Client) readPump() {
	defer close(c.readDone)
	select { // what it says before it is in the room would be lost
	case <-c.admitted:
	case <-c.done:
	}
	reason := disconnectFor(c.readMessages())
	offer(c.hub, c.hub.unregister, leave{c, reason})
	c.conn.SetReadDeadline(time.Time{}) // from here on writePump decides how long
	io.Copy(io.Discard, c.corked)
}

// errDisconnected is what reading ends with when the client was disconnected meanwhile.
var errDisconnected = errors.New("disconnected")

// readMessages hands the peer's messages to the hub. It returns why that ended: a
// protocol.Disconnect, errDisconnected, or an error of the library.
func (c *Client) readMessages() error {
	c.conn.SetPongHandler(func(string) error { return c.control() })
	c.conn.SetPingHandler(func(payload string) error {
		if err := c.control(); err != nil {
			return err
		}
		// The pong may wait as long as the longest write, which the peer may be busy with.
		err := c.conn.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add((1+maxCorked)*writeWait))
		if isTimeout(err) {
			return slowConsumer
		}
		return nil // if the connection is broken, reading will show it
	})
	// writePump answers a close frame, after what is in the queue.
	c.conn.SetCloseHandler(func(int, string) error { return nil })

	for {
		c.conn.SetReadDeadline(time.Now().Add(pongWait))
		messageType, r, err := c.conn.NextReader()
		if err != nil {
			return err
		}
		if messageType != websocket.TextMessage {
			return protocol.UnsupportedData
		}
		c.partial = true
		m, err := c.readMessage(r)
		if err != nil {
			return err
		}
		c.partial = false
		if err := c.throttle(); err != nil {
			return err
		}
		if m.Text == "" {
			continue
		}
		select {
		case c.hub.broadcast <- message{c, m}:
		case <-c.done: // the log may be full for long
			return errDisconnected
		case <-c.hub.stopped:
			return stopping
		}
		c.hub.coalescer.messageWaits()
	}
}

// control notes a ping or a pong. Either shows that the peer is alive, but does not excuse
// a message that is never completed. It costs as much as a message, for reading it is as
// much work.
func (c *Client) control() error {
	if err := c.throttle(); err != nil {
		return err
	}
	if !c.partial {
		c.conn.SetReadDeadline(time.Now().Add(pongWait))
	}
	return nil
}

// readBuffers holds *[]byte, for readMessage.
var readBuffers = sync.Pool{New: func() any { buf := make([]byte, 0, 512); return &buf }}

// readMessage reads a message to its end. However long its frames say it is, no more is newly
// allocated than twice what has come, and never more than the longest message.
func (c *Client) readMessage(r io.Reader) (protocol.ClientMessage, error) {
	pooled := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(pooled)
	buf := (*pooled)[:0]
	most := c.protocol.ReadLimit() + 1 // one byte more shows that a message is too long
	deadline := time.Now().Add(pongWait)
	c.conn.SetReadDeadline(deadline)
	for len(buf) < most {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(2*cap(buf), most)), buf...)
			*pooled = buf
		}
		n, err := r.Read(buf[len(buf):min(cap(buf), most)])
		if err == io.EOF {
			break
		}
		if isTimeout(err) && len(buf) > smallMessage {
			return protocol.ClientMessage{}, largeMessageTimeout
		}
		if isTimeout(err) {
			return protocol.ClientMessage{}, messageTimeout
		}
		if err != nil {
			return protocol.ClientMessage{}, err
		}
		if before := len(buf); before <= smallMessage && before+n > smallMessage {
			if soon := time.Now().Add(largeMessageWait); soon.Before(deadline) {
				c.conn.SetReadDeadline(soon)
			}
		}
		buf = buf[:len(buf)+n]
	}
	return c.protocol.Decode(buf)
}

// disconnectFor returns how to end a connection from which reading returned err.
func disconnectFor(err error) protocol.Disconnect {
	var disconnect protocol.Disconnect
	var closed *websocket.CloseError
	var broken net.Error
	switch {
	case errors.As(err, &disconnect):
		return disconnect
	case errors.As(err, &closed):
		switch closed.Code {
		case websocket.CloseNoStatusReceived, websocket.CloseAbnormalClosure: // no code to send back
			return goodbye
		}
		return protocol.Disconnect{Code: closed.Code, Reason: goodbye.Reason}
	case errors.Is(err, websocket.ErrReadLimit): // a length with its first bit set
		return protocol.MessageTooBig
	case isTimeout(err):
		return idleTimeout
	case errors.As(err, &broken), errors.Is(err, io.EOF), errors.Is(err, errDisconnected), errors.Is(err, budget.ErrStopped), errors.Is(err, budget.ErrLeft):
		return goodbye
	}
	// What is left is what the library calls a breach of the protocol, and has told the peer.
	return protocol.ProtocolError(strings.TrimPrefix(err.Error(), "websocket: "))
}

// isTimeout reports whether err says that a deadline has passed.
func isTimeout(err error) bool {
	var broken net.Error
	return errors.As(err, &broken) && broken.Timeout()
}

// throttle holds the client to its rate with a token bucket, whose size is burst, and to
// what its address may still send. It pauses readPump, so that the connection fills up and
// the peer feels backpressure. Nothing is lost while the peer stays, and nobody else
// notices. It returns errDisconnected, at once, when the client was disconnected, and
// budget.ErrLeft when the peer left while its address had nothing left to send.
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
	free := c.budget.Take(1)
	if pause <= 0 && free {
		c.throttledSince, c.throttleLogged = time.Time{}, false
		return nil
	}
	c.noteThrottled(now)
	c.hub.counters.Throttled.Add(1)
	defer c.hub.counters.Throttled.Add(-1)
	if pause > 0 {
		select {
		case <-c.done:
			return errDisconnected
		case <-time.After(pause):
		}
	}
	if !free {
		return c.budget.Wait(c.done, func() bool { return socket.Left(c.corked.Conn) })
	}
	return nil
}

// noteThrottled logs that the client is throttled, once, when that has lasted.
func (c *Client) noteThrottled(now time.Time) {
	switch {
	case c.throttledSince.IsZero():
		c.throttledSince = now
	case !c.throttleLogged && now.Sub(c.throttledSince) >= throttleLogAfter:
		c.throttleLogged = true
		c.hub.logger.Printf("throttled", "%s is throttled: it, or its address, sends more than -rate allows", c)
	}
}

// writePump writes what the hub queues to the peer, until startClose closes the queue or
// the peer takes no more. Then it ends the connection. It returns when nothing of the
// client is left.
func (c *Client) writePump() {
	err := c.writeBatches()
	if err == nil {
		err = c.corked.WriteFrame(protocol.CloseFrame(c.reason), false) // closeTimer ends it
	}
	if err == nil || err == cork.ErrCloseSent { // the library has sent its own, in answer to a breach
		c.linger()
	}
	c.conn.Close()
	<-c.readDone
	<-c.done // which the hub closes at the latest when it hears from readPump
	c.closeTimer.Stop()
	for b, ok := c.send.Take(); ok; b, ok = c.send.Take() { // startClose has closed it
		b.markWritten()
	}
	if c.reason.Cause != protocol.NotDropped {
		c.hub.counters.Drops[c.reason.Cause].Add(1)
		c.hub.logger.Printf("disconnected", "%s disconnected: %s", c, c.reason.Reason)
	}
}

// linger gives the peer time to read to the end and hang up first.
func (c *Client) linger() {
	c.corked.CloseWrite() // an error says that there is nobody to tell
	select {
	case <-c.readDone:
	case <-time.After(lingerWait):
	}
}
