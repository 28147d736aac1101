package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"chat/internal/wstest"
)

// generator is the crowd: all clients of one run, in one goroutine around one epoll
// instance. It must cost much less than the server, so a client is a descriptor, a
// parser and a position in the record, and reads are large.
type generator struct {
	loadSpec
	epoll   int
	timer   int // ticks when the next line is due, at a fixed rate
	clients []*client
	events  [256]syscall.EpollEvent
	buf     []byte // for reading
	out     []byte // for writing

	record       *record
	speakers     []*client // some of the clients
	refilling    bool      // they answer their own lines with the next
	joined       int       // clients let in so far
	disconnected int
	deliveries   int // lines heard, all clients together

	// at a fixed rate
	start     time.Time // when line 0 is due; zero when nothing is
	nextLine  int       // the next line to say
	latencies []time.Duration
}

type client struct {
	fd       int
	joined   bool
	closed   bool
	rest     []byte // received, and the beginning of something that is not whole yet
	frames   parser
	listener listener
	speaker  int // -1 for one who only listens
	returned int // a speaker's own lines that it has heard
	sampled  bool
}

const (
	handshakes  = 64               // under way at a time: less than any backlog
	sampleEvery = 10               // clients, of which one takes the time of what it hears
	joinLimit   = 60 * time.Second // for all to be let in
	drainLimit  = 60 * time.Second // for the last line to reach everyone
	timerEvent  = -1
)

// generate puts one server under one load. A fault of the server is in the result; an
// error is ours.
func generate(spec loadSpec) (result, error) {
	g := &generator{
		loadSpec: spec,
		timer:    -1,
		record:   newRecord(spec.Subprotocol, spec.Speakers),
		buf:      make([]byte, 256<<10),
	}
	var err error
	if g.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return result{}, os.NewSyscallError("epoll_create1", err)
	}
	defer g.close()

	var r result
	err = g.measure(&r)
	r.Disconnected = g.disconnected
	var f fault
	switch {
	case errors.As(err, &f):
		r.Fault = f.Error()
	case err != nil:
		return result{}, err
	}
	return r, nil
}

func (g *generator) close() {
	for _, c := range g.clients {
		g.closeClient(c)
	}
	if g.timer >= 0 {
		syscall.Close(g.timer)
	}
	syscall.Close(g.epoll)
}

// measure is one run: all come in, the room settles, some speak, and at the end
// everyone must have heard everything.
func (g *generator) measure(r *result) error {
	if err := g.measureJoin(r); err != nil {
		return err
	}
	if g.Speakers > 0 {
		if err := g.measureDelivery(r); err != nil {
			return err
		}
	}
	return g.check()
}

// measureJoin measures what it takes the server to let all in, and to have them.
func (g *generator) measureJoin(r *result) error {
	memory, err := residentMemory(g.PID)
	if err != nil {
		return err
	}
	before, err := g.snapshot()
	if err != nil {
		return err
	}
	if err := g.join(); err != nil {
		return err
	}
	r.Joined = g.joined
	r.JoinTime = time.Since(before.time)
	if err := g.receiveFor(g.Settle / 4); err != nil { // while the server finishes with the last ones
		return err
	}
	after, err := g.snapshot()
	if err != nil {
		return err
	}
	r.JoinCPU = after.cpu - before.cpu
	if err := g.receiveFor(g.Settle - g.Settle/4); err != nil {
		return err
	}
	settled, err := residentMemory(g.PID)
	r.Memory = settled - memory
	return err
}

// measureDelivery measures what it takes the server to pass on what the speakers say.
func (g *generator) measureDelivery(r *result) error {
	if err := g.startSpeakers(); err != nil {
		return err
	}
	if err := g.receiveFor(g.WarmUp); err != nil {
		return err
	}
	before, err := g.snapshot()
	if err != nil {
		return err
	}
	if err := g.receiveFor(g.Window); err != nil {
		return err
	}
	after, err := g.snapshot()
	if err != nil {
		return err
	}
	r.Time = after.time.Sub(before.time)
	r.Deliveries = after.deliveries - before.deliveries
	r.CPU = after.cpu - before.cpu
	r.OwnCPU = after.own - before.own

	g.refilling = false
	if err := g.drain(); err != nil {
		return err
	}
	slices.Sort(g.latencies)
	r.P50 = percentile(g.latencies, 50)
	r.P99 = percentile(g.latencies, 99)
	return nil
}

// A snapshot is what the clocks and counters show at one time.
type snapshot struct {
	time       time.Time
	cpu, own   time.Duration // used by the server and by the generator
	deliveries int
}

func (g *generator) snapshot() (snapshot, error) {
	cpu, err := cpuTime(g.PID)
	if err != nil {
		return snapshot{}, fault("the server is gone")
	}
	own, err := cpuTime(os.Getpid())
	return snapshot{time.Now(), cpu, own, g.deliveries}, err
}

// join brings all clients in.
func (g *generator) join() error {
	addr, err := netip.ParseAddrPort(g.Addr)
	if err != nil {
		return err
	}
	request := []byte(wstest.Handshake(g.Addr, "/ws", g.Subprotocol))
	for deadline := time.Now().Add(joinLimit); g.joined < g.Listeners; {
		for len(g.clients) < g.Listeners && len(g.clients)-g.joined < handshakes {
			if err := g.connect(addr, request); err != nil {
				return err
			}
		}
		if err := g.poll(deadline); err != nil {
			return err
		}
		if g.disconnected > 0 {
			return fault(fmt.Sprintf("ended a connection when %d were in", g.joined))
		}
		if time.Now().After(deadline) {
			return fault(fmt.Sprintf("only %d of %d let in after %v", g.joined, g.Listeners, joinLimit))
		}
	}
	return nil
}

// connect opens the next client's connection and asks for the upgrade.
func (g *generator) connect(addr netip.AddrPort, request []byte) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	index := len(g.clients)
	c := &client{fd: fd, speaker: -1, listener: listener{record: g.record}, sampled: index%sampleEvery == 0}
	g.clients = append(g.clients, c)
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return os.NewSyscallError("connect", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := g.write(c, request); err != nil {
		return err
	}
	return g.watch(fd, int32(index))
}

// watch has epoll tell of fd, by the given name, whenever something new can be read.
func (g *generator) watch(fd int, name int32) error {
	const edgeTriggered = 1 << 31 // syscall.EPOLLET is negative
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | edgeTriggered, Fd: name}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_ADD, fd, &event))
}

// receiveFor reads what comes, for so long.
func (g *generator) receiveFor(d time.Duration) error {
	for until := time.Now().Add(d); time.Now().Before(until); {
		if err := g.poll(until); err != nil {
			return err
		}
	}
	return nil
}

// poll waits for something to read, at most until then, and reads it.
func (g *generator) poll(until time.Time) error {
	wait := max(0, time.Until(until).Milliseconds()+1)
	n, errno := epollWait(g.epoll, g.events[:], wait)
	if errno == syscall.EINTR {
		return nil
	} else if errno != 0 {
		return os.NewSyscallError("epoll_pwait", errno)
	}
	for _, event := range g.events[:n] {
		if !g.start.IsZero() {
			if err := g.sendDue(); err != nil { // also between two reads, so as not to be late
				return err
			}
		}
		if event.Fd == timerEvent {
			var ticks [8]byte
			syscall.Read(g.timer, ticks[:]) // the clock says how many are due
			continue
		}
		ended := event.Events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0
		if err := g.read(g.clients[event.Fd], ended); err != nil {
			return err
		}
	}
	return nil
}

// read reads all there is for a client. A short read emptied the line, unless the
// line has ended: that takes one more to see.
func (g *generator) read(c *client, ended bool) error {
	for !c.closed {
		begun := copy(g.buf, c.rest)
		n, errno := transfer(syscall.SYS_READ, c.fd, g.buf[begun:])
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return nil
		case errno != 0 || n == 0:
			g.disconnect(c)
			return nil
		}
		if err := g.handle(c, g.buf[:begun+n]); err != nil {
			return err
		}
		if begun+n < len(g.buf) && !ended {
			return nil
		}
	}
	return nil
}

// handle handles what was read for a client, after the rest of the time before.
func (g *generator) handle(c *client, data []byte) error {
	if !c.joined {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			c.rest = append(c.rest[:0], data...)
			return nil
		}
		if err := checkHandshake(data[:end+2], g.Subprotocol); err != nil {
			return err
		}
		data = data[end+4:]
		c.joined = true
		g.joined++
	}
	c.frames.data = data
	for c.frames.scan() {
		switch c.frames.op {
		case wstest.Text:
			lines, err := c.listener.receive(c.frames.body, c.frames.end)
			if err != nil {
				return err
			}
			g.count(c, lines)
		case wstest.Ping:
			if err := g.write(c, []byte(wstest.Masked(wstest.Fin|wstest.Pong, string(c.frames.body)))); err != nil {
				return err
			}
		case wstest.Close:
			g.disconnect(c)
			return nil
		}
	}
	if c.frames.err != nil {
		return c.frames.err
	}
	c.rest = append(c.rest[:0], c.frames.data...)
	return g.refill(c)
}

// count counts the lines that have come to a client.
func (g *generator) count(c *client, lines []lineID) {
	g.deliveries += len(lines)
	if c.speaker >= 0 {
		for _, line := range lines {
			if line.speaker == c.speaker {
				c.returned++
			}
		}
	}
	if g.Rate > 0 && c.sampled && len(lines) > 0 {
		now := time.Since(g.start)
		for _, line := range lines {
			due := dueTime(line.number*g.Speakers+line.speaker, g.Rate)
			if due >= g.WarmUp {
				g.latencies = append(g.latencies, now-due)
			}
		}
	}
}

// startSpeakers has the speakers begin. They stand among the listeners at equal distances.
func (g *generator) startSpeakers() error {
	for speaker := range g.Speakers {
		c := g.clients[speaker*g.Listeners/g.Speakers]
		c.speaker = speaker
		g.speakers = append(g.speakers, c)
	}
	if g.Rate > 0 {
		g.start = time.Now()
		return g.setTimer()
	}
	g.refilling = true
	for _, c := range g.speakers {
		if err := g.refill(c); err != nil {
			return err
		}
	}
	return nil
}

// refill has a speaker who waits for its own lines say as many again as have come.
func (g *generator) refill(c *client) error {
	if !g.refilling || c.speaker < 0 || c.closed {
		return nil
	}
	out := g.out[:0]
	for g.record.sent[c.speaker]-c.returned < g.InFlight {
		out = g.appendNextLine(out, c.speaker)
	}
	g.out = out
	if len(out) == 0 {
		return nil
	}
	return g.write(c, out)
}

// appendNextLine appends the frame with a speaker's next line.
func (g *generator) appendNextLine(b []byte, speaker int) []byte {
	line := lineID{speaker, g.record.sent[speaker]}
	g.record.sent[speaker]++
	return append(b, wstest.Masked(wstest.Fin|wstest.Text, line.encode(g.Subprotocol))...)
}

// sendDue says what is due. The speakers take turns.
func (g *generator) sendDue() error {
	now := time.Since(g.start)
	for {
		due := dueTime(g.nextLine, g.Rate)
		if due > now || due >= g.WarmUp+g.Window {
			return nil
		}
		speaker := g.nextLine % g.Speakers
		g.nextLine++
		c := g.speakers[speaker]
		if c.closed {
			continue
		}
		g.out = g.appendNextLine(g.out[:0], speaker)
		if err := g.write(c, g.out); err != nil {
			return err
		}
	}
}

// setTimer has a timer wake the loop for each line that becomes due.
func (g *generator) setTimer() error {
	const clockMonotonic = 1
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return os.NewSyscallError("timerfd_create", errno)
	}
	g.timer = int(fd)
	interval := syscall.NsecToTimespec(dueTime(1, g.Rate).Nanoseconds())
	spec := struct{ interval, first syscall.Timespec }{interval, interval}
	if _, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return os.NewSyscallError("timerfd_settime", errno)
	}
	return g.watch(g.timer, timerEvent)
}

// write writes to a client's line, which has room for all that it may say.
func (g *generator) write(c *client, data []byte) error {
	n, errno := transfer(syscall.SYS_WRITE, c.fd, data)
	switch {
	case errno == 0 && n == len(data):
		return nil
	case errno == 0 || errno == syscall.EAGAIN:
		return fault("the server does not read")
	case errno == syscall.EPIPE || errno == syscall.ECONNRESET:
		return nil // reading tells
	}
	return os.NewSyscallError("write", errno)
}

// disconnect is for a client whose connection the server has ended.
func (g *generator) disconnect(c *client) {
	g.disconnected++
	g.closeClient(c)
}

func (g *generator) closeClient(c *client) {
	if !c.closed {
		c.closed = true
		syscall.Close(c.fd)
	}
}

// drain listens until everyone has heard everything, or nothing more comes; and a
// little longer, for what should not come.
func (g *generator) drain() error {
	const step = 20 * time.Millisecond
	deadline := time.Now().Add(drainLimit)
	quiet := time.Now()
	for g.check() != nil && time.Since(quiet) < g.IdleTimeout && time.Now().Before(deadline) {
		before := g.deliveries
		if err := g.receiveFor(step); err != nil {
			return err
		}
		if g.deliveries > before {
			quiet = time.Now()
		}
	}
	return g.receiveFor(step)
}

// check returns a fault unless those who stayed have heard each other, and all the same.
func (g *generator) check() error {
	for index, c := range g.clients {
		if c.closed {
			continue
		}
		if c.speaker >= 0 && g.record.received[c.speaker] < g.record.sent[c.speaker] {
			return fault(fmt.Sprintf("speaker %d said %d lines, but only %d came",
				c.speaker, g.record.sent[c.speaker], g.record.received[c.speaker]))
		}
		if c.listener.received < len(g.record.lines) {
			return fault(fmt.Sprintf("client %d has heard %d of %d lines", index, c.listener.received, len(g.record.lines)))
		}
	}
	return nil
}
