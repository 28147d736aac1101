package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	startWait = 10 * time.Second // for a server to listen
	stopLimit = 5 * time.Second  // for one to exit after SIGTERM, as it promises
	stopSlack = time.Second      // for the machine to notice
)

// server is the program under fire: one process after another at one address.
type server struct {
	path    string
	addr    string
	metrics string // the address of its metrics
	report  *report

	// starting is held while there is a process that nobody is to connect to: while its
	// goroutines and descriptors are counted. Whoever dials holds it for reading.
	starting sync.RWMutex
	running  atomic.Pointer[process]
}

// process is one life of the server.
type process struct {
	cmd    *exec.Cmd
	begin  int64         // microseconds since 1970: all ids it gives are larger
	first  usage         // with nobody connected
	exited chan struct{} // closed when it is gone
	err    error         // how it went; set before that
	client *http.Client  // for the metrics: one connection, kept open

	ended  atomic.Bool  // we have told it to end
	killed atomic.Bool  // and not kindly
	end    atomic.Int64 // as begin, when it was gone

	mu  sync.Mutex
	log []string // the last lines that it wrote
}

// build compiles the server in the parent directory of this module, and finds addresses
// for it.
func (s *server) build(ctx context.Context, dir string) (err error) {
	s.path = filepath.Join(dir, "chat")
	c := exec.CommandContext(ctx, "go", "build", "-o", s.path, ".")
	c.Dir = ".."
	c.Stderr = os.Stderr
	if err := c.Run(); err != nil {
		return err
	}
	if s.addr, err = freeAddr(); err != nil {
		return err
	}
	s.metrics, err = freeAddr()
	return err
}

// freeAddr returns an address of this machine alone on which nothing listens.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start starts a process. Nobody connects before its measure is taken.
func (s *server) start() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	p := &process{
		cmd:    exec.Command(s.path, "-addr", s.addr, "-metrics", s.metrics),
		begin:  time.Now().UnixMicro(),
		exited: make(chan struct{}),
		client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxConnsPerHost: 1}},
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	s.report.begins = append(s.report.begins, p.begin)
	s.running.Store(p)
	listening := make(chan struct{})
	go s.watch(p, output, listening)
	select {
	case <-listening:
	case <-p.exited:
		return fmt.Errorf("the server does not start: %v\n%s", p.err, p.tail())
	case <-time.After(startWait):
		return fmt.Errorf("the server does not listen after %v\n%s", startWait, p.tail())
	}
	if p.first, err = s.settled(p); err != nil {
		return err
	}
	go func() {
		<-p.exited
		if !p.ended.Load() {
			s.report.fault("the server is gone: %v\n%s", p.err, p.tail())
		}
	}()
	return nil
}

// watch reads what a process writes, until it is gone.
func (s *server) watch(p *process, output io.Reader, listening chan struct{}) {
	for scanner := bufio.NewScanner(output); scanner.Scan(); {
		line := scanner.Text()
		if listening != nil && strings.Contains(line, "listening on") {
			close(listening)
			listening = nil
		}
		if strings.Contains(line, "panic") {
			s.report.fault("the server said %s", line)
		}
		p.mu.Lock()
		if p.log = append(p.log, line); len(p.log) > 60 {
			p.log = p.log[1:]
		}
		p.mu.Unlock()
	}
	p.err = p.cmd.Wait()
	close(p.exited)
}

// tail returns the last lines that a process wrote.
func (p *process) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

// stop ends the running process. It returns an error if that did not go as promised.
func (s *server) stop(signal syscall.Signal) error {
	p := s.running.Load()
	p.killed.Store(signal == syscall.SIGKILL)
	if p.ended.Swap(true) {
		return errors.New("the server was stopped twice")
	}
	p.client.CloseIdleConnections()
	begin := time.Now()
	p.cmd.Process.Signal(signal) // an error says that it is gone, which Wait tells too
	limit := stopLimit + stopSlack
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.killed.Store(true)
		p.cmd.Process.Kill()
		<-p.exited
	}
	p.end.Store(time.Now().UnixMicro())
	if took := time.Since(begin); took >= limit {
		return fmt.Errorf("the server did not stop within %v", limit)
	}
	if signal != syscall.SIGKILL && p.err != nil {
		return fmt.Errorf("the server stopped with %v\n%s", p.err, p.tail())
	}
	return nil
}

// last returns an id, after the process has stopped, that none it gave exceeds.
func (p *process) last() int64 {
	if end := p.end.Load(); end > 0 {
		return end
	}
	return time.Now().UnixMicro() // in another moment it is gone
}

// usage is what a process has of what it must give back.
type usage struct {
	goroutines int // without those of rooms, of which those spoken in stay for a while
	users      int // connections as the metrics count them
	files      int
	memory     int // bytes
}

// usage takes a process's measure.
func (s *server) usage(p *process) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	series, err := s.scrape(p)
	if err != nil {
		return u, err
	}
	u.goroutines = int(series["go_goroutines"] - series["chat_rooms"])
	u.users = int(sum(series, "chat_connections{"))
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		return u, err
	}
	u.files = len(files)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return u, err
	}
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rss + " ?")[0])
	u.memory = kib << 10
	return u, err
}

// settled returns a process's measure when it has stayed the same for a moment.
func (s *server) settled(p *process) (usage, error) {
	before, err := s.usage(p)
	for err == nil {
		time.Sleep(50 * time.Millisecond)
		var now usage
		if now, err = s.usage(p); err == nil && now.goroutines == before.goroutines && now.files == before.files {
			return now, nil
		}
		before = now
	}
	return before, err
}

// promised are the series that the metrics must have.
var promised = []string{
	`chat_connections{protocol="classic"}`, `chat_connections{protocol="chat.v1"}`, "chat_rooms",
	"chat_messages_total", "chat_deliveries_total", "chat_batches_total",
	"chat_fanout_seconds_count", "go_goroutines", "go_memstats_alloc_bytes", "process_start_time_seconds",
}

// scrape reads a process's metrics, by series.
func (s *server) scrape(p *process) (map[string]float64, error) {
	answer, err := p.client.Get("http://" + s.metrics + "/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	series := map[string]float64{}
	scanner := bufio.NewScanner(answer.Body)
	for scanner.Scan() {
		line := scanner.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if at < 0 || err != nil {
			return nil, fmt.Errorf("metrics: %q", line)
		}
		series[line[:at]] = value
	}
	for _, name := range promised {
		if _, ok := series[name]; !ok {
			return nil, fmt.Errorf("metrics: no %s", name)
		}
	}
	return series, scanner.Err()
}

// sum adds up the series whose names begin so.
func sum(series map[string]float64, prefix string) (total float64) {
	for name, value := range series {
		if strings.HasPrefix(name, prefix) {
			total += value
		}
	}
	return total
}
