package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"chat/internal/wstest"
)

const (
	maxHandshakes = 64               // handshakes under way at a time: fewer than any listener's backlog
	joinLimit     = 60 * time.Second // how long all handshakes may take together
	sampleEvery   = 10               // of so many clients one measures latency
)

// A generator is all clients of a run, in one goroutine around one epoll instance. It must
// cost much less than the server: so a client is a descriptor, a parser and a position in
// the record, and reads are large.
type generator struct {
	loadSpec
	ctx    context.Context // ends the run
	err    error           // the first error, or a fault of the server: it ends the run, too
	addr   netip.AddrPort  // of the server
	pid    int             // of the server
	node   int             // the process id of its NATS node; 0 for none
	epoll  int
	events [256]syscall.EpollEvent // scratch: what poll handles
	timer  int                     // a timerfd that fires whenever a line is due; -1 before
	buf    []byte                  // scratch: what is read

	clients      []*client
	record       *record         // of all lines
	joined       int             // clients whose handshake succeeded and which were not disconnected since
	disconnected int             // connections that the server ended
	deliveries   int             // lines received, all clients together
	refilling    bool            // whether speakers send, in a closed loop
	start        time.Time       // when line 0 is due, in an open loop; zero before
	nextLine     int             // the line to be due next, in an open loop
	latencies    []time.Duration // of the lines that were due in the window, in an open loop
}

// A client is one connection.
type client struct {
	fd       int    // -1 when the connection is closed
	joined   bool   // the handshake succeeded
	rest     []byte // of what was read: the beginning of something that is not whole yet
	frames   parser
	listener listener
	speaker  int  // -1 for a client that does not send
	returned int  // a speaker's own lines that it has received
	sampled  bool // it measures latency
}

// generate puts a server, by address and process id, under a load. Node is the process id of its
// NATS node, 0 for none. A fault of the server is in the result, not an error.
func generate(ctx context.Context, spec loadSpec, addr netip.AddrPort, pid, node int) (result, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return result{}, os.NewSyscallError("epoll_create1", err)
	}
	g := &generator{loadSpec: spec, ctx: ctx, addr: addr, pid: pid, node: node, epoll: epoll, timer: -1, buf: make([]byte, 256<<10)}
	g.record = newRecord(spec.subprotocol, spec.speakers)
	defer g.close()
	r := g.measure()
	if f, ok := errors.AsType[fault](g.err); ok {
		return result{fault: f.Error()}, nil
	}
	return r, g.err
}

// fail ends the run, unless err is nil.
func (g *generator) fail(err error) {
	if g.err == nil {
		g.err = err
	}
}

// close closes all descriptors.
func (g *generator) close() {
	for _, c := range g.clients {
		if c.fd >= 0 {
			syscall.Close(c.fd)
		}
	}
	if g.timer >= 0 {
		syscall.Close(g.timer)
	}
	syscall.Close(g.epoll)
}

// A snapshot is the clocks and counters at one time.
type snapshot struct {
	time        time.Time
	cpu, ownCPU time.Duration // used by the server and by the generator
	nodeCPU     time.Duration // used by the NATS node
	memory      int           // the server's resident memory in bytes
	deliveries  int
}

// after receives for so long and takes a snapshot then.
func (g *generator) after(d time.Duration) (s snapshot) {
	g.receiveFor(d)
	s.time, s.deliveries = time.Now(), g.deliveries
	var err1, err2, err3, err4 error
	s.cpu, err1 = cpuTime(g.pid)
	s.ownCPU, err2 = cpuTime(os.Getpid())
	s.memory, err3 = residentMemory(g.pid)
	if g.node > 0 {
		s.nodeCPU, err4 = cpuTime(g.node)
	}
	g.fail(errors.Join(err1, err2, err3, err4))
	return s
}

// measure is a run: all clients join, the room settles, speakers send lines, and everyone
// must receive all of them.
func (g *generator) measure() (r result) {
	start := g.after(0)
	g.join()
	r.joined, r.joinTime = g.joined, time.Since(start.time)
	joined := g.after(g.settle / 4) // while the server finishes the last handshakes
	settled := g.after(g.settle - g.settle/4)
	r.joinCPU, r.memory = joined.cpu-start.cpu, settled.memory-start.memory
	if g.speakers > 0 {
		g.startSpeakers()
		begin := g.after(g.warmUp)
		end := g.after(g.window)
		r.time, r.deliveries = end.time.Sub(begin.time), end.deliveries-begin.deliveries
		r.cpu, r.ownCPU, r.nodeCPU = end.cpu-begin.cpu, end.ownCPU-begin.ownCPU, end.nodeCPU-begin.nodeCPU
		g.drain()
		slices.Sort(g.latencies)
		r.p50, r.p99 = percentile(g.latencies, 50), percentile(g.latencies, 99)
	}
	r.disconnected = g.disconnected
	return r
}

// join connects all clients.
func (g *generator) join() {
	for deadline := time.Now().Add(joinLimit); g.joined < g.listeners && g.err == nil; {
		for len(g.clients) < g.listeners && len(g.clients)-g.joined < maxHandshakes && g.err == nil {
			g.connect()
		}
		g.poll(deadline)
		if g.disconnected > 0 {
			g.fail(fault(fmt.Sprintf("ended a connection when %d were accepted", g.joined)))
		}
		if time.Now().After(deadline) {
			g.fail(fault(fmt.Sprintf("accepted only %d of %d in %v", g.joined, g.listeners, joinLimit)))
		}
	}
}

// connect connects one more client and sends its handshake. Speakers are at equal
// distances among the clients.
func (g *generator) connect() {
	fd, err := dial(g.addr)
	g.fail(err)
	index := len(g.clients)
	c := &client{fd: fd, speaker: -1, listener: listener{record: g.record}, sampled: index%sampleEvery == 0}
	if interval := g.listeners / max(1, g.speakers); index%interval == 0 && index/interval < g.speakers {
		c.speaker = index / interval
	}
	g.clients = append(g.clients, c)
	g.write(c, wstest.Handshake(g.addr.String(), "/ws", g.subprotocol))
	g.fail(g.watch(fd, index))
}

// receiveFor handles for so long what the server sends, and sends what is due.
func (g *generator) receiveFor(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until) && g.err == nil; {
		g.poll(until)
	}
}

// poll waits until there is something to read, at most until a time, and reads it. It may
// return earlier.
func (g *generator) poll(until time.Time) {
	const interval = 100 * time.Millisecond // in which to look at ctx
	n, err := epollWait(g.epoll, g.events[:], min(interval, time.Until(until)))
	g.fail(err)
	g.fail(g.ctx.Err())
	for _, event := range g.events[:n] {
		if !g.start.IsZero() {
			g.sendDue() // also between two reads, so as not to be late
		}
		if event.Fd == timerEvent {
			transfer(syscall.SYS_READ, g.timer, g.buf[:8]) // or it does not fire again
			continue
		}
		ended := event.Events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0
		g.read(g.clients[event.Fd], ended)
	}
}

// read reads and handles all there is for a client. A short read shows that there is no
// more, unless the connection has ended: that takes another read to see.
func (g *generator) read(c *client, ended bool) {
	for c.fd >= 0 && g.err == nil {
		begun := copy(g.buf, c.rest)
		n, errno := transfer(syscall.SYS_READ, c.fd, g.buf[begun:])
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return
		case errno != 0 || n == 0:
			g.disconnect(c)
			return
		}
		g.handle(c, g.buf[:begun+n])
		if begun+n < len(g.buf) && !ended {
			return
		}
	}
}

// handle handles what was read for a client: the rest of the time before, and what is new.
func (g *generator) handle(c *client, data []byte) {
	if !c.joined {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			c.rest = append(c.rest[:0], data...)
			return
		}
		g.fail(checkHandshake(data[:end+2], g.subprotocol))
		data = data[end+4:]
		c.joined = true
		g.joined++
	}
	c.frames.data = data
	for c.frames.scan() {
		switch c.frames.op {
		case wstest.Text:
			lines, err := c.listener.receive(c.frames.body, c.frames.end)
			g.fail(err)
			g.count(c, lines)
		case wstest.Ping:
			g.write(c, wstest.Masked(wstest.Fin|wstest.Pong, string(c.frames.body)))
		case wstest.Close:
			g.disconnect(c)
			return
		}
	}
	g.fail(c.frames.err)
	c.rest = append(c.rest[:0], c.frames.data...)
	g.refill(c)
}

// count counts the lines that a client has received.
func (g *generator) count(c *client, lines []lineID) {
	g.deliveries += len(lines)
	if c.speaker >= 0 {
		for _, line := range lines {
			if line.speaker == c.speaker {
				c.returned++
			}
		}
	}
	if g.rate > 0 && c.sampled && len(lines) > 0 {
		now := time.Since(g.start)
		for _, line := range lines {
			due := dueTime(line.number*g.speakers+line.speaker, g.rate)
			if due >= g.warmUp {
				g.latencies = append(g.latencies, now-due)
			}
		}
	}
}

// startSpeakers lets the speakers send.
func (g *generator) startSpeakers() {
	if g.rate == 0 {
		g.refilling = true
		for _, c := range g.clients {
			g.refill(c)
		}
		return
	}
	g.start = time.Now()
	var err error
	g.timer, err = newTimer(dueTime(1, g.rate))
	g.fail(err)
	g.fail(g.watch(g.timer, timerEvent))
}

// refill sends, in a closed loop, a speaker's next lines, until as many as there may be are
// in flight.
func (g *generator) refill(c *client) {
	if !g.refilling || c.speaker < 0 || c.fd < 0 {
		return
	}
	frames := ""
	for g.record.sent[c.speaker]-c.returned < g.inFlight {
		frames += g.newLine(c)
	}
	if frames != "" {
		g.write(c, frames)
	}
}

// newLine returns the frame with a speaker's next line.
func (g *generator) newLine(c *client) string {
	line := lineID{c.speaker, g.record.sent[c.speaker]}
	g.record.sent[c.speaker]++
	return wstest.Masked(wstest.Fin|wstest.Text, line.encode(g.subprotocol))
}

// sendDue sends the lines that are due, in an open loop. The speakers take turns.
func (g *generator) sendDue() {
	now := time.Since(g.start)
	for {
		due := dueTime(g.nextLine, g.rate)
		if due > now || due >= g.warmUp+g.window {
			return
		}
		c := g.clients[g.nextLine%g.speakers*(g.listeners/g.speakers)]
		g.nextLine++
		if c.fd >= 0 {
			g.write(c, g.newLine(c))
		}
	}
}

// write writes to a client's connection, whose buffer has room for all that it sends.
func (g *generator) write(c *client, data string) {
	n, errno := transfer(syscall.SYS_WRITE, c.fd, []byte(data))
	switch {
	case errno == syscall.EPIPE || errno == syscall.ECONNRESET: // read notices it, too
	case errno == syscall.EAGAIN || errno == 0 && n < len(data):
		g.fail(fault("does not read"))
	case errno != 0:
		g.fail(os.NewSyscallError("write", errno))
	}
}

// disconnect closes a client's connection, which the server has ended.
func (g *generator) disconnect(c *client) {
	g.disconnected++
	if c.joined {
		g.joined--
	}
	syscall.Close(c.fd)
	c.fd = -1
}

// drain receives until everyone has received every line, or nothing more comes; and a
// little longer, for what should not come. A line that did not come is a fault.
func (g *generator) drain() {
	const step = 20 * time.Millisecond
	g.refilling = false
	for quiet := time.Now(); g.missing() != nil && time.Since(quiet) < g.idleTimeout && g.err == nil; {
		before := g.deliveries
		g.receiveFor(step)
		if g.deliveries > before {
			quiet = time.Now()
		}
	}
	g.receiveFor(step)
	g.fail(g.missing())
}

// missing returns a fault unless each client that is connected has received each line.
func (g *generator) missing() error {
	for index, c := range g.clients {
		if c.fd < 0 {
			continue
		}
		if c.speaker >= 0 && g.record.received[c.speaker] < g.record.sent[c.speaker] {
			return fault(fmt.Sprintf("sent only %d of the %d lines of speaker %d",
				g.record.received[c.speaker], g.record.sent[c.speaker], c.speaker))
		}
		if c.listener.received < len(g.record.lines) {
			return fault(fmt.Sprintf("sent client %d only %d of %d lines", index, c.listener.received, len(g.record.lines)))
		}
	}
	return nil
}
