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

// visit is one connection of somebody. One goroutine, listen, reads from it.
type visit struct {
	person  *person
	process *process // to which
	ear     *ear
	stretch *stretch // on the classic wire
	pipe    *pipe
	conn    *websocket.Conn
	keen    atomic.Bool   // reads all that comes, at once
	left    atomic.Bool   // by its own will
	greeted chan struct{} // closed by listen, at the hello
	over    chan struct{} // closed by listen, when it ends
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
func (p *person) open(r *room, pace int) (*visit, error) {
	e := p.ear(r)
	if p.classic {
		e.giveUp()
	}
	after, outbox := e.position()
	query := url.Values{"room": {r.name}}
	if p.name != "" {
		query.Set("name", p.name)
	}
	v := &visit{person: p, ear: e, greeted: make(chan struct{}), over: make(chan struct{})}
	v.keen.Store(pace == 0)
	dialer := websocket.Dialer{ReadBufferSize: 2048, WriteBufferSize: 1024, HandshakeTimeout: helloWait}
	if p.classic {
		v.stretch = &stretch{owner: p.owner, begin: time.Now().UnixMicro()}
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
		p.soak.verdict.count("not let in: " + whyNot(answer, err))
		return nil, err
	}
	v.conn = conn
	go v.listen()
	if p.classic {
		return v, nil
	}
	select {
	case <-v.greeted:
	case <-v.over:
		p.soak.verdict.count("not let in: ended before the hello")
		return nil, errors.New("no hello")
	case <-time.After(helloWait):
		p.soak.verdict.count("not let in: no hello")
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
func (v *visit) listen() {
	defer close(v.over)
	verdict := v.person.soak.verdict
	greeted := false
	speaks := protocol.ChatV1
	if v.stretch != nil {
		speaks = protocol.Classic
	}
	var err error
	for {
		var frame []byte
		if _, frame, err = v.conn.ReadMessage(); err != nil {
			break
		}
		events, err := wstest.Events(speaks, frame)
		if err != nil {
			verdict.odd("%s: %v", v.person.owner, err)
		}
		for _, e := range events {
			if v.stretch != nil {
				v.hearClassic(e.Text)
				continue
			}
			switch e.Type {
			case "hello":
				if greeted {
					verdict.odd("%s was greeted twice", v.person.owner)
					continue
				}
				greeted = true
				v.ear.greet(e, v.process, verdict)
				if e.Missed {
					verdict.count("missed")
				}
				close(v.greeted)
			case "message":
				if !greeted {
					verdict.odd("%s was spoken to before the hello", v.person.owner)
					continue
				}
				v.ear.hear(e, verdict)
			}
		}
	}
	v.conn.Close()
	v.end(err, greeted)
}

// hearClassic takes a line of the classic wire.
func (v *visit) hearClassic(text string) {
	v.stretch.heard = append(v.stretch.heard, sound{maphash.String(hashSeed, text), time.Now().UnixMicro()})
	if v.person.name != "" {
		text = strings.TrimPrefix(text, v.person.name+": ")
	}
	v.ear.mu.Lock()
	defer v.ear.mu.Unlock()
	if i := slices.IndexFunc(v.ear.outbox, func(u utterance) bool { return u.text == text }); i >= 0 {
		v.ear.outbox = slices.Delete(v.ear.outbox, i, i+1)
	}
}

// end notes how a connection ended.
func (v *visit) end(err error, greeted bool) {
	verdict := v.person.soak.verdict
	code, reason := websocket.CloseAbnormalClosure, "" // without a close frame
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		code, reason = closed.Code, closed.Text
	}
	stopped := code == websocket.CloseGoingAway && reason == "the server is stopping"
	if stopped && greeted {
		v.ear.stopped(v.process)
	}
	if v.stretch != nil {
		if stopped {
			v.stretch.end = v.process.last()
		}
		v.ear.giveUp()
		v.ear.room.mu.Lock()
		v.ear.room.stretches = append(v.ear.room.stretches, v.stretch)
		v.ear.room.mu.Unlock()
	}
	if v.left.Load() {
		return
	}
	verdict.count(strings.TrimSpace(fmt.Sprintf("ended: %d %s", code, reason)))
	if code == websocket.CloseAbnormalClosure && v.keen.Load() && !v.process.killed.Load() {
		verdict.odd("%s in %q read all the time and was cut off without a word: %v", v.person.owner, v.ear.room.name, err)
	}
}

// say says a line.
func (v *visit) say(text string) {
	e := v.ear
	e.mu.Lock()
	e.said++
	u := utterance{text, fmt.Sprintf("%s-%d-%s", e.owner, e.said, e.room.name)}
	e.outbox = append(e.outbox, u)
	e.mu.Unlock()
	v.person.soak.verdict.count("said")
	v.send(u)
}

// send sends a line. If that fails, so does reading.
func (v *visit) send(u utterance) {
	frame := []byte(u.text)
	if v.stretch == nil {
		frame, _ = json.Marshal(map[string]string{"text": u.text, "ref": u.ref}) // of strings, it cannot fail
	}
	v.conn.SetWriteDeadline(time.Now().Add(writeWait))
	if v.conn.WriteMessage(websocket.TextMessage, frame) != nil {
		v.left.Store(true)
		v.conn.Close()
	}
}

// wait waits for so long. It reports false if the connection is over, or the run.
func (v *visit) wait(d time.Duration) bool {
	select {
	case <-v.over:
		return false
	case <-v.person.soak.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// waitFor waits until done, at most for so long, and reports whether it is.
func (v *visit) waitFor(most time.Duration, done func() bool) bool {
	deadline := time.Now().Add(most)
	for !done() && time.Now().Before(deadline) && v.wait(20*time.Millisecond) {
	}
	return done()
}

// leave says goodbye and hangs up when that is answered, or not for a while.
func (v *visit) leave() {
	v.left.Store(true)
	v.pipe.frozen.Store(false)
	v.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	select {
	case <-v.over:
	case <-time.After(leaveWait):
		v.cut()
	}
}

// cut hangs up without a word.
func (v *visit) cut() {
	v.left.Store(true)
	v.pipe.frozen.Store(false)
	v.conn.Close()
	<-v.over
}

// reset ends the connection as a machine does that knows nothing of it.
func (v *visit) reset() {
	v.pipe.SetLinger(0)
	v.cut()
}
