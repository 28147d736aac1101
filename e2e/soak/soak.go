package main

import (
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"chat/internal/protocol"
)

const (
	numRooms     = 15  // rooms that the users share, the lobby among them
	numClients   = 300 // three observers in each room, offenders, walkers, a witness; the rest are users
	numOffenders = 30  // clients that break rules
	numWalkers   = 2   // clients that walk through rooms, together through more than the server keeps

	minUptime = 15 * time.Second // between two restarts
	idleWait  = 30 * time.Second // for the server to have nothing left of its clients
	maxHeap   = 256 << 20        // bytes that the server may have at the end: it does not collect all garbage at once
)

// A soak is one run.
type soak struct {
	seed   uint64
	server *server
	report *report

	history bool // the server keeps it on disk
}

// run builds and starts the server, keeps clients connected for a duration, and checks
// what they received. What the server did wrong is in the report. It returns an error if
// the run could not be made.
func (s *soak) run(duration time.Duration) error {
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		log.Print("stopped by ", <-interrupts)
		os.RemoveAll(dir)
		os.Exit(1) // the server ends with this process
	}()
	if s.history {
		s.server.history = filepath.Join(dir, "history")
	}
	if err := s.server.build(dir); err != nil {
		return err
	}
	if err := s.server.start(); err != nil {
		return err
	}
	defer s.server.stop(syscall.SIGKILL)

	rooms := []*room{newRoom("")}
	for n := 1; n < numRooms; n++ {
		rooms = append(rooms, newRoom(fmt.Sprint("room-", n)))
	}
	begin := time.Now()
	var clients sync.WaitGroup
	observers := s.startClients(&clients, rooms, begin.Add(duration))
	if err := s.restart(begin, duration); err != nil {
		return err
	}
	clients.Wait()
	for _, u := range observers { // after the users, who have resent messages
		clients.Go(u.finish)
	}
	clients.Wait()
	s.addMetrics()
	s.checkIdle()
	for _, r := range rooms {
		r.check(s.report, s.server.begins)
	}
	return nil
}

// startClients starts all clients, which return at end or when all their messages are
// acknowledged. It returns the observers.
func (s *soak) startClients(clients *sync.WaitGroup, rooms []*room, end time.Time) (observers []*user) {
	n := 0
	next := func() *user {
		n++
		return s.newUser(n)
	}
	for _, r := range rooms {
		for _, p := range []protocol.Protocol{protocol.ChatV1, protocol.ChatV1, protocol.Classic} {
			u := next()
			u.protocol = p
			observers = append(observers, u)
			clients.Go(func() {
				for time.Now().Before(end) {
					u.visit(r, 0, (*user).listen, end)
				}
			})
		}
	}
	for range numOffenders {
		u := next()
		o := &offender{soak: s, number: u.number, rand: u.rand}
		clients.Go(func() { o.run(rooms, end) })
	}
	for range numWalkers {
		u := next()
		u.protocol = protocol.ChatV1
		clients.Go(func() { u.walk(end) })
	}
	witness := next()
	witness.protocol = protocol.ChatV1
	clients.Go(func() { witness.witness(end) })
	for n < numClients {
		u := next()
		clients.Go(func() {
			u.run(rooms, end)
			u.finish()
		})
	}
	return observers
}

// restart restarts the server now and then, by SIGTERM and SIGKILL in turn. The last process
// has almost half the run.
func (s *soak) restart(begin time.Time, duration time.Duration) error {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}
	interval := max(minUptime, duration/15)
	for n := 1; time.Duration(n)*interval <= duration*6/10; n++ {
		time.Sleep(time.Until(begin.Add(time.Duration(n) * interval)))
		signal := signals[(s.seed+uint64(n))%2]
		s.addMetrics()
		s.server.stop(signal)
		s.report.count("server", "stopped by "+signal.String(), 1)
		if err := s.server.start(); err != nil {
			return err
		}
	}
	return nil
}

// addMetrics counts what the counters of the running process have counted.
func (s *soak) addMetrics() {
	series, err := s.server.scrape()
	if err != nil {
		s.report.fault("other", "no metrics: %v", err)
	}
	for name, value := range series {
		if strings.HasPrefix(name, "chat_") && strings.Contains(name, "_total") && value > 0 {
			s.report.count("metrics", name, int(value))
		}
	}
}

// checkIdle waits until the server has nothing left of its clients, and reports what it
// keeps.
func (s *soak) checkIdle() {
	p := s.server.running.Load()
	u, heap, err := s.server.usage()
	for deadline := time.Now().Add(idleWait); time.Now().Before(deadline) && (err != nil || u != p.first); {
		time.Sleep(200 * time.Millisecond)
		u, heap, err = s.server.usage()
	}
	if err != nil || u != p.first || heap > maxHeap {
		s.report.fault("other", "all clients have left, and the server has %+v, a heap of %d bytes and the error %v; at its start it had %+v", u, heap, err, p.first)
	}
	fmt.Printf("last process: %+v at its start, %+v and a heap of %d KiB at its end\n", p.first, u, heap>>10)
}
