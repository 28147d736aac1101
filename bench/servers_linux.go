package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"syscall"
	"time"
)

// run puts a fresh server process of a program under a load. When it returns, the process
// is gone.
func run(ctx context.Context, p program, spec loadSpec) (result, error) {
	s, err := newServer(p)
	if err != nil {
		return result{}, err
	}
	if err := s.start(); err != nil {
		return result{}, err
	}
	defer s.stop(syscall.SIGKILL)
	return generate(ctx, spec, s.addr, s.process.Process.Pid)
}

// A server is a program under load, as one process or several after each other.
type server struct {
	program
	addr    string // on which it listens
	process *exec.Cmd
}

// newServer returns a server on a free port of this machine alone. It does not run yet.
func newServer(p program) (*server, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &server{program: p, addr: l.Addr().String()}, l.Close()
}

// start starts a process and waits until it listens. The caller calls stop, if start
// succeeds. The process ends with this one, however that ends.
func (s *server) start() error {
	var stderr bytes.Buffer
	s.process = exec.Command(s.path, append([]string{"-addr", s.addr}, s.args...)...)
	s.process.Dir = s.dir
	s.process.Stderr = &stderr
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		return err
	}
	if err := s.awaitListener(); err != nil {
		s.stop(syscall.SIGKILL)
		return fmt.Errorf("%s does not listen: %w\n%s", s.name, err, stderr.Bytes())
	}
	return nil
}

// stop sends the process a signal and waits for its end.
func (s *server) stop(signal syscall.Signal) {
	s.process.Process.Signal(signal) // an error says that it has ended
	s.process.Wait()                 // an error is its exit status
}

// awaitListener waits, at most five seconds, until the server accepts a connection.
func (s *server) awaitListener() error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp4", s.addr)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}
