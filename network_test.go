package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// network is a listener and all its connections, in memory: they can be used on
// fake time, hold no more than a socket would, and can be frozen like a line that is
// dead without a word.
type network struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
	live   atomic.Int64 // server ends that are not closed

	window int // bytes on their way from the server to a peer that does not read
}

func newNetwork() *network {
	return &network{accept: make(chan net.Conn, 1024), closed: make(chan struct{}), window: 64 << 10}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case conn := <-n.accept:
		return conn, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

func (n *network) Addr() net.Addr { return addr("chat.test:80") }

// open tells how many connections the server has not closed.
func (n *network) open() int64 { return n.live.Load() }

// dial connects to the listener; the arguments are those of a Dialer's.
func (n *network) dial(context.Context, string, string) (net.Conn, error) {
	toServer, toPeer := newStream(64<<10), newStream(n.window)
	server := &conn{in: toServer, out: toPeer, closed: func() { n.live.Add(-1) }}
	peer := &conn{in: toPeer, out: toServer, closed: func() {}}
	n.live.Add(1)
	select {
	case n.accept <- server:
		return peer, nil
	case <-n.closed:
		n.live.Add(-1)
		return nil, syscall.ECONNREFUSED
	}
}

type addr string

func (addr) Network() string  { return "memory" }
func (a addr) String() string { return string(a) }

// conn is one end of a connection: two streams.
type conn struct {
	in, out *stream
	once    sync.Once
	closed  func()
}

func (c *conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write, to an end that is closed, earns a reset, which takes with it what was not read.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	if errors.Is(err, syscall.EPIPE) {
		c.in.update(func() { c.in.reset = true })
	}
	return n, err
}

func (c *conn) LocalAddr() net.Addr                { return addr("192.0.2.1:80") }
func (c *conn) RemoteAddr() net.Addr               { return addr("192.0.2.2:1234") }
func (c *conn) SetReadDeadline(t time.Time) error  { c.in.reader.setDeadline(c.in, t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.writer.setDeadline(c.out, t); return nil }

func (c *conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// CloseWrite tells the peer that nothing more will come.
func (c *conn) CloseWrite() error {
	c.out.update(func() { c.out.eof = true })
	return nil
}

// Close ends both streams. As with TCP, unread input makes it a reset, which takes
// with it what the peer has not read.
func (c *conn) Close() error {
	c.once.Do(func() {
		var unread bool
		c.in.update(func() {
			unread = len(c.in.buf) > 0
			c.in.reader.closed, c.in.reset = true, true
		})
		c.out.update(func() {
			c.out.writer.closed, c.out.eof = true, true
			c.out.reset = c.out.reset || unread
		})
		c.closed()
	})
	return nil
}

// stream carries bytes one way, up to size of them at a time.
type stream struct {
	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	size    int
	frozen  bool // what is written stays where it is
	eof     bool // nothing more will be written
	reset   bool // and what is here will not be read

	reader, writer end
}

// end is the reading or writing side of a stream.
type end struct {
	closed   bool
	deadline time.Time
	timer    *time.Timer
}

func newStream(size int) *stream {
	s := &stream{size: size}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// update changes the stream and wakes all who wait for that.
func (s *stream) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.changed.Broadcast()
}

func (e *end) setDeadline(s *stream, t time.Time) {
	s.update(func() {
		if e.timer != nil {
			e.timer.Stop()
			e.timer = nil
		}
		if e.deadline = t; !t.IsZero() && time.Until(t) > 0 {
			e.timer = time.AfterFunc(time.Until(t), func() { s.update(func() {}) })
		}
	})
}

// err returns what a call on this end fails with at once, nil if it does not.
func (e *end) err() error {
	switch {
	case e.closed:
		return net.ErrClosed
	case !e.deadline.IsZero() && time.Until(e.deadline) <= 0:
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.reader.err(); err != nil {
			return 0, &net.OpError{Op: "read", Net: "memory", Err: err}
		}
		switch {
		case s.reset:
			return 0, &net.OpError{Op: "read", Net: "memory", Err: syscall.ECONNRESET}
		case len(s.buf) > 0 && !s.frozen:
			n := copy(p, s.buf)
			s.buf = s.buf[n:]
			s.changed.Broadcast()
			return n, nil
		case s.eof && !s.frozen:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for written := 0; ; {
		if err := s.writer.err(); err != nil {
			return written, &net.OpError{Op: "write", Net: "memory", Err: err}
		}
		if s.reset || s.eof {
			return written, &net.OpError{Op: "write", Net: "memory", Err: syscall.EPIPE}
		}
		n := min(len(p)-written, s.size-len(s.buf))
		s.buf = append(s.buf, p[written:written+n]...)
		s.changed.Broadcast()
		if written += n; written == len(p) {
			return written, nil
		}
		s.changed.Wait()
	}
}
