package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"chat/e2e/engine"
)

const (
	startTimeout = 30 * time.Second // for a server to listen, and have nothing left of its start: the machine may be busy
	idleWait     = 30 * time.Second // for a server to have nothing left of its clients
	maxHeap      = 256 << 20        // bytes that a server may have at the end: it does not collect all garbage at once
	stopTimeout  = 6 * time.Second  // for a server to exit after SIGTERM: the five seconds that it promises, and one for a busy machine
)

// A server is one process after another at one address.
type server struct {
	soak    *soak
	args    []string // beside addresses
	addr    string
	metrics string         // the address of its metrics
	lines   []*engine.Line // to each node
	first   usage          // of the last process, or with nats of the first: a later one may start while NATS is away

	// starting is held while a process starts: nobody connects before its goroutines and
	// descriptors are counted. Who connects holds it for reading.
	starting sync.RWMutex
	running  atomic.Pointer[process]
}

// A process is one run of the server.
type process struct {
	cmd    *exec.Cmd
	begin  int64         // microseconds since 1970; it may not know messages with smaller ids
	first  usage         // before the first connection
	exited chan struct{} // closed when it has exited

	stopping atomic.Bool  // it was told to exit
	thawed   atomic.Int64 // when it last went on after it was frozen, as begin; the largest number while it is frozen
	killed   atomic.Bool  // by SIGKILL
	end      atomic.Int64 // when it had exited, as begin; 0 before
}

// start starts a process, and returns when it listens and is measured.
func (s *server) start() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	for _, addr := range []*string{&s.addr, &s.metrics} {
		var err error
		if *addr == "" {
			if *addr, err = engine.FreeAddr(); err != nil {
				return err
			}
		}
	}
	var log bytes.Buffer // small: the server logs little
	begin, report := s.soak.begin(), s.soak.report
	p := &process{
		cmd:    exec.Command(s.soak.path, append([]string{"-addr", s.addr, "-metrics", s.metrics}, s.args...)...),
		begin:  begin,
		exited: make(chan struct{}),
	}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), "GOGC=50"), &log // so that less of the heap is garbage
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	s.running.Store(p)
	go func() {
		err, text := p.cmd.Wait(), log.String()
		_, panicked, found := strings.Cut(text, "panic") // which the process may survive
		if !p.stopping.Load() || err != nil && !p.killed.Load() || found {
			report.fault("other", "the server ended with %v, the log %s and the panic %.4000s", err, text[max(0, len(text)-4000):], panicked)
		}
		close(p.exited)
	}()
	if s.soak.nats && s.first == (usage{}) {
		time.Sleep(2 * time.Second) // until it has reached the nodes, and what that took is gone
	}
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		before, _, _ := s.usage() // fails until it listens
		time.Sleep(50 * time.Millisecond)
		now, _, err := s.usage()
		if err == nil && now == before { // nothing is left of its start
			if s.first == (usage{}) || !s.soak.nats {
				s.first = now
			}
			p.first = s.first
			return nil
		}
	}
	return fmt.Errorf("the server is not ready after %v", startTimeout)
}

// stop ends the running process with a signal.
func (s *server) stop(signal syscall.Signal) {
	p := s.running.Load()
	p.killed.Store(signal == syscall.SIGKILL)
	p.stopping.Store(true)
	client.CloseIdleConnections()
	p.cmd.Process.Signal(signal) // an error says that it has exited, and so does Wait
	timer := time.AfterFunc(stopTimeout, func() {
		s.soak.report.fault("other", "the server did not stop within %v", stopTimeout)
		p.killed.Store(true)
		p.cmd.Process.Kill()
	})
	<-p.exited
	timer.Stop()
	p.end.Store(time.Now().UnixMicro())
}

// failedSince reports whether the process was told to exit, or stood still at some time since
// begin: then it owes no answer.
func (p *process) failedSince(begin time.Time) bool {
	return p.stopping.Load() || p.frozenSince(begin)
}

// frozenSince reports whether the process stood still at some time since begin: then it may take
// its clients for slow ones.
func (p *process) frozenSince(begin time.Time) bool { return p.thawed.Load() >= begin.UnixMicro() }

// lastID returns a number that no id that the process gave so far exceeds, where ids are times.
func (p *process) lastID() int64 {
	if end := p.end.Load(); end > 0 {
		return end
	}
	return time.Now().UnixMicro()
}

// restart ends the running process with a signal, and starts the next one after a while.
func (s *server) restart(signal syscall.Signal, down time.Duration) error {
	s.addMetrics()
	s.stop(signal)
	s.soak.report.count("server", "stopped by "+signal.String(), 1)
	time.Sleep(down)
	return s.start()
}

// dial opens a TCP connection to the running process from the address of the client of a
// number: each has its own. The client's end of a slow one has room for little. The caller
// calls done when it has the server's answer, or gives up.
func (s *server) dial(client int, slow bool) (conn *net.TCPConn, p *process, done func(), err error) {
	s.starting.RLock()
	dialer := net.Dialer{
		Timeout:   10 * time.Second,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(client>>8), byte(client))},
	}
	if slow {
		dialer.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) // without it, just less slow
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400)
			})
		}
	}
	c, err := dialer.Dial("tcp4", s.addr)
	if err != nil {
		s.starting.RUnlock()
		return nil, nil, nil, err
	}
	return c.(*net.TCPConn), s.running.Load(), s.starting.RUnlock, nil
}

// A usage is what a process must give back when all clients have left.
type usage struct {
	goroutines  int // without those of rooms, which are kept for a while
	connections int // as the metrics count them
	descriptors int // without those of rooms' files
}

// usage measures the running process. The heap is in bytes.
func (s *server) usage() (u usage, heap int, err error) {
	series, err := s.scrape()
	if err != nil {
		return u, 0, err
	}
	open := fmt.Sprintf("/proc/%d/fd/", s.running.Load().cmd.Process.Pid)
	descriptors, err := os.ReadDir(open)
	descriptors = slices.DeleteFunc(descriptors, func(e os.DirEntry) bool {
		path, _ := os.Readlink(open + e.Name())
		return strings.HasSuffix(path, ".jsonl") // a room's
	})
	perRoom := 1.0
	if s.soak.history {
		perRoom = 2 // its file has one, too
	}
	return usage{
		goroutines:  int(series["go_goroutines"] - perRoom*series["chat_rooms"]),
		connections: int(series[`chat_connections{protocol="classic"}`] + series[`chat_connections{protocol="chat.v1"}`]),
		descriptors: len(descriptors),
	}, int(series["go_memstats_alloc_bytes"]), err
}

// client asks for the metrics. It keeps its connection.
var client = &http.Client{Timeout: 5 * time.Second}

// scrape returns the values of the running process's metrics, by series.
func (s *server) scrape() (map[string]float64, error) {
	resp, err := client.Get("http://" + s.metrics + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	series := make(map[string]float64)
	scanner := bufio.NewScanner(resp.Body)
	for scanner.Scan() {
		line := scanner.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := max(0, strings.LastIndexByte(line, ' '))
		if series[line[:i]], err = strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err != nil {
			return nil, fmt.Errorf("the metrics: %w", err)
		}
	}
	if series["go_goroutines"] == 0 {
		return nil, fmt.Errorf("the metrics have no go_goroutines")
	}
	return series, scanner.Err()
}

// addMetrics counts what the counters of the running process have counted.
func (s *server) addMetrics() {
	series, err := s.scrape()
	if err != nil {
		s.soak.report.fault("other", "no metrics: %v", err)
	}
	for name, value := range series {
		if strings.HasPrefix(name, "chat_") && strings.Contains(name, "_total") && value > 0 {
			s.soak.report.count("metrics", name, int(value))
		}
	}
}

// checkIdle waits until the server has nothing left of its clients, and reports what it
// keeps.
func (s *server) checkIdle() {
	p := s.running.Load()
	u, heap, err := s.usage()
	for deadline := time.Now().Add(idleWait); time.Now().Before(deadline) && (err != nil || u != p.first); {
		time.Sleep(200 * time.Millisecond)
		u, heap, err = s.usage()
	}
	if err != nil || u != p.first || heap > maxHeap {
		s.soak.report.fault("other", "all clients have left, and the server has %+v, a heap of %d bytes and the error %v; at its start it had %+v", u, heap, err, p.first)
	}
	fmt.Printf("last process: %+v at its start, %+v and a heap of %d KiB at its end\n", p.first, u, heap>>10)
}
