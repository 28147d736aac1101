package wstest

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

// A Network is a listener and all its connections, in memory. They work on fake time
// (testing/synctest), hold no more bytes than a socket would, and can be frozen.
type Network struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
	live   atomic.Int64 // server ends that are not closed

	PeerAddr string // host:port of the peers of connections made from now on

	Window int // bytes that the server can send to a peer that does not read; of connections made from now on
}

// NewNetwork returns a network without connections, and a Window of 64 KiB.
func NewNetwork() *Network {
	return &Network{accept: make(chan net.Conn, 1024), closed: make(chan struct{}), Window: 64 << 10, PeerAddr: "192.0.2.2:1234"}
}

// Accept returns the server's end of the next connection. It implements net.Listener.
func (n *Network) Accept() (net.Conn, error) {
	select {
	case conn := <-n.accept:
		return conn, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept and Dial fail. Connections stay.
func (n *Network) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr returns a made-up address.
func (n *Network) Addr() net.Addr { return addr("chat.test:80") }

// Open returns how many connections the server has not closed.
func (n *Network) Open() int64 { return n.live.Load() }

// Dial connects to the listener. It ignores its arguments, which are those of
// net.Dialer.DialContext.
func (n *Network) Dial(context.Context, string, string) (net.Conn, error) {
	toServer, toPeer := newStream(64<<10), newStream(n.Window)
	server := &Conn{in: toServer, out: toPeer, peer: addr(n.PeerAddr), closed: func() { n.live.Add(-1) }}
	peer := &Conn{in: toPeer, out: toServer, closed: func() {}}
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

// A Conn is one end of a connection: two streams.
type Conn struct {
	in, out *stream
	peer    net.Addr
	once    sync.Once
	closed  func()
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements net.Conn. To an end that is closed it causes a reset, which discards
// what was not read.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	if errors.Is(err, syscall.EPIPE) {
		c.in.update(func() { c.in.reset = true })
	}
	return n, err
}

// LocalAddr returns a made-up address, as RemoteAddr does.
func (c *Conn) LocalAddr() net.Addr { return addr("192.0.2.1:80") }

// RemoteAddr returns the address of the peer.
func (c *Conn) RemoteAddr() net.Addr { return c.peer }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { c.in.reader.setDeadline(c.in, t); return nil }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.out.writer.setDeadline(c.out, t); return nil }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// CloseWrite tells the peer that nothing more will come. What is under way arrives.
func (c *Conn) CloseWrite() error {
	c.out.update(func() { c.out.eof = true })
	return nil
}

// Close ends both streams. As with TCP, unread input makes it a reset, which takes
// with it what the peer has not read.
func (c *Conn) Close() error {
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

// PeerLeft reports whether the peer has shut down its side, for package socket.
func (c *Conn) PeerLeft() bool {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.in.eof || c.in.reset
}

// Freeze makes the connection lose everything in both directions without a word, as a
// cut cable does: neither end can tell.
func (c *Conn) Freeze() {
	for _, s := range []*stream{c.in, c.out} {
		s.update(func() { s.frozen = true })
	}
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
