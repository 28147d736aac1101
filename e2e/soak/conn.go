package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

const (
	helloWait = 10 * time.Second // as long as the page waits
	writeWait = 20 * time.Second // for the server to take a line; one that is held to its rate waits
	leaveWait = 5 * time.Second  // for the answer to a goodbye

	firstDelay = 500 * time.Millisecond // before coming back, at most; doubled each time
	mostDelay  = 15 * time.Second
)

// pipe is a TCP connection whose reader may be slow, or stop for a while.
type pipe struct {
	*net.TCPConn
	pace   int // bytes a second; 0 for as fast as they come
	frozen atomic.Bool
}

func (c *pipe) Read(b []byte) (int, error) {
	if c.pace > 0 {
		time.Sleep(100 * time.Millisecond)
		b = b[:min(len(b), c.pace/10)]
	}
	n, err := c.TCPConn.Read(b)
	for c.frozen.Load() {
		time.Sleep(20 * time.Millisecond)
	}
	return n, err
}

// conn is one connection of somebody. One goroutine, listen, reads from it.
type conn struct {
	user        *user
	process     *process // to which
	session     *session
	classicSpan *classicSpan // on the classic wire
	pipe        *pipe
	ws          *websocket.Conn
	attentive   atomic.Bool   // reads all that comes, at once
	left        atomic.Bool   // by its own will
	greeted     chan struct{} // closed by listen, at the hello
	over        chan struct{} // closed by listen, when it ends
}

// backoff is how long the page waits before the next attempt after so many that failed.
func backoff(failed int) time.Duration {
	most := min(firstDelay<<min(failed, 10), mostDelay)
	return time.Duration(rand.Int64N(int64(most)))
}

// dial opens a TCP connection to the server, and holds it off while that is being
// started. On a narrow one little is under way: small packets, and a small buffer.
// The caller must call done when the server has answered, or will not.
func (s *server) dial(ctx context.Context, narrow bool) (conn *net.TCPConn, process *process, done func(), err error) {
	s.starting.RLock()
	process = s.running.Load()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if narrow {
		dialer.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) // without it, just less slow
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400)
			})
		}
	}
	c, err := dialer.DialContext(ctx, "tcp4", s.addr)
	if err == nil && s.running.Load() != process {
		c.Close()
		err = errors.New("restarted meanwhile")
	}
	if err != nil {
		s.starting.RUnlock()
		return nil, nil, nil, err
	}
	return c.(*net.TCPConn), process, s.starting.RUnlock, nil
}

// open connects once. What has not come back is said again.
func (p *user) open(r *room, pace int) (*conn, error) {
	e := p.session(r)
	if p.classic {
		e.giveUp()
	}
	after, outbox := e.position()
	query := url.Values{"room": {r.name}}
	if p.name != "" {
		query.Set("name", p.name)
	}
	v := &conn{user: p, session: e, greeted: make(chan struct{}), over: make(chan struct{})}
	v.attentive.Store(pace == 0)
	dialer := websocket.Dialer{ReadBufferSize: 2048, WriteBufferSize: 1024, HandshakeTimeout: helloWait}
	if p.classic {
		v.classicSpan = &classicSpan{owner: p.owner, begin: time.Now().UnixMicro()}
	} else {
		dialer.Subprotocols = []string{protocol.Subprotocol}
		query.Set("key", "key of "+p.owner)
		if after > 0 {
			query.Set("after", fmt.Sprint(after))
		}
	}
	var done func()
	dialer.NetDialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, process, free, err := p.soak.server.dial(ctx, pace > 0)
		if err != nil {
			return nil, err
		}
		done = free
		v.process, v.pipe = process, &pipe{TCPConn: conn, pace: pace}
		return v.pipe, nil
	}
	conn, answer, err := dialer.Dial("ws://"+p.soak.server.addr+"/ws?"+query.Encode(), nil)
	if done != nil {
		done()
	}
	if err != nil {
		p.soak.report.count("not let in: " + whyNot(answer, err))
		return nil, err
	}
	v.ws = conn
	go v.listen()
	if p.classic {
		return v, nil
	}
	select {
	case <-v.greeted:
	case <-v.over:
		p.soak.report.count("not let in: ended before the hello")
		return nil, errors.New("no hello")
	case <-time.After(helloWait):
		p.soak.report.count("not let in: no hello")
		v.cut()
		return nil, errors.New("no hello")
	}
	for _, u := range outbox {
		v.send(u)
	}
	return v, nil
}

// whyNot names the reason for which an attempt to connect failed.
func whyNot(answer *http.Response, err error) string {
	switch {
	case answer != nil:
		return answer.Status
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	}
	return "cut off"
}

// listen reads until the connection ends.
func (v *conn) listen() {
	defer close(v.over)
	report := v.user.soak.report
	greeted := false
	speaks := protocol.ChatV1
	if v.classicSpan != nil {
		speaks = protocol.Classic
	}
	var err error
	for {
		var frame []byte
		if _, frame, err = v.ws.ReadMessage(); err != nil {
			break
		}
		events, err := wstest.Events(speaks, frame)
		if err != nil {
			report.fault("%s: %v", v.user.owner, err)
		}
		for _, e := range events {
			if v.classicSpan != nil {
				v.receiveClassic(e.Text)
				continue
			}
			switch e.Type {
			case "hello":
				if greeted {
					report.fault("%s was greeted twice", v.user.owner)
					continue
				}
				greeted = true
				v.session.join(e, v.process, report)
				if e.Missed {
					report.count("missed")
				}
				close(v.greeted)
			case "message":
				if !greeted {
					report.fault("%s was spoken to before the hello", v.user.owner)
					continue
				}
				v.session.receive(e, report)
			}
		}
	}
	v.ws.Close()
	v.end(err, greeted)
}

// receiveClassic takes a line of the classic wire.
func (v *conn) receiveClassic(text string) {
	v.classicSpan.heard = append(v.classicSpan.heard, receipt{maphash.String(hashSeed, text), time.Now().UnixMicro()})
	if v.user.name != "" {
		text = strings.TrimPrefix(text, v.user.name+": ")
	}
	v.session.mu.Lock()
	defer v.session.mu.Unlock()
	if i := slices.IndexFunc(v.session.outbox, func(u outgoing) bool { return u.text == text }); i >= 0 {
		v.session.outbox = slices.Delete(v.session.outbox, i, i+1)
	}
}

// end notes how a connection ended.
func (v *conn) end(err error, greeted bool) {
	report := v.user.soak.report
	code, reason := websocket.CloseAbnormalClosure, "" // without a close frame
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		code, reason = closed.Code, closed.Text
	}
	stopped := code == websocket.CloseGoingAway && reason == "the server is stopping"
	if stopped && greeted {
		v.session.stopped(v.process)
	}
	if v.classicSpan != nil {
		if stopped {
			v.classicSpan.end = v.process.last()
		}
		v.session.giveUp()
		v.session.room.mu.Lock()
		v.session.room.classicSpans = append(v.session.room.classicSpans, v.classicSpan)
		v.session.room.mu.Unlock()
	}
	if v.left.Load() {
		return
	}
	report.count(strings.TrimSpace(fmt.Sprintf("ended: %d %s", code, reason)))
	if code == websocket.CloseAbnormalClosure && v.attentive.Load() && !v.process.killed.Load() {
		report.fault("%s in %q read all the time and was cut off without a word: %v", v.user.owner, v.session.room.name, err)
	}
}

// say says a line.
func (v *conn) say(text string) {
	e := v.session
	e.mu.Lock()
	e.said++
	u := outgoing{text, fmt.Sprintf("%s-%d-%s", e.owner, e.said, e.room.name)}
	e.outbox = append(e.outbox, u)
	e.mu.Unlock()
	v.user.soak.report.count("said")
	v.send(u)
}

// send sends a line. If that fails, so does reading.
func (v *conn) send(u outgoing) {
	frame := []byte(u.text)
	if v.classicSpan == nil {
		frame, _ = json.Marshal(map[string]string{"text": u.text, "ref": u.ref}) // of strings, it cannot fail
	}
	v.ws.SetWriteDeadline(time.Now().Add(writeWait))
	if v.ws.WriteMessage(websocket.TextMessage, frame) != nil {
		v.left.Store(true)
		v.ws.Close()
	}
}

// wait waits for so long. It reports false if the connection is over, or the run.
func (v *conn) wait(d time.Duration) bool {
	select {
	case <-v.over:
		return false
	case <-v.user.soak.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// waitFor waits until done, at most for so long, and reports whether it is.
func (v *conn) waitFor(most time.Duration, done func() bool) bool {
	deadline := time.Now().Add(most)
	for !done() && time.Now().Before(deadline) && v.wait(20*time.Millisecond) {
	}
	return done()
}

// leave says goodbye and hangs up when that is answered, or not for a while.
func (v *conn) leave() {
	v.left.Store(true)
	v.pipe.frozen.Store(false)
	v.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	select {
	case <-v.over:
	case <-time.After(leaveWait):
		v.cut()
	}
}

// cut hangs up without a word.
func (v *conn) cut() {
	v.left.Store(true)
	v.pipe.frozen.Store(false)
	v.ws.Close()
	<-v.over
}

// reset ends the connection as a machine does that knows nothing of it.
func (v *conn) reset() {
	v.pipe.SetLinger(0)
	v.cut()
}
