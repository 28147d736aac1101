package main

import (
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"chat/e2e/engine"
	"chat/internal/protocol"
)

const (
	numRooms     = 15  // rooms that the users share, the lobby among them
	numClients   = 300 // three observers in each room, offenders, walkers, a witness; the rest are users
	numOffenders = 30  // clients that break rules
	numWalkers   = 2   // clients that walk through rooms, together through more than the server keeps

	minUptime = 15 * time.Second // between two restarts
)

// A soak is one run.
type soak struct {
	seed    uint64
	path    string    // of the program
	begins  []int64   // of the processes that know nothing of earlier ones, in microseconds since 1970
	servers []*server // more than one only with nats
	report  *report

	history bool // the server keeps it on disk
	nats    bool // the servers share their rooms
	cluster *engine.Cluster
}

// begin returns when the first of the processes began that know what a new one knows: itself, or
// with what is kept on disk or over NATS the first of all.
func (s *soak) begin() int64 {
	if len(s.begins) == 0 || !s.history && !s.nats {
		s.begins = append(s.begins, time.Now().UnixMicro())
	}
	return s.begins[len(s.begins)-1]
}

// server returns the server for a connection, any of them.
func (s *soak) server() *server { return s.servers[rand.IntN(len(s.servers))] }

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
		s.servers[0].args = []string{"-history", filepath.Join(dir, "history")}
	}
	if s.nats {
		if err := s.startCluster(dir); err != nil {
			return err
		}
		defer s.cluster.Close()
	}
	s.path = filepath.Join(dir, "chat")
	build := exec.Command("go", "build", "-o", s.path, ".")
	build.Dir, build.Stderr = "..", os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	for _, server := range s.servers {
		if err := server.start(); err != nil {
			return err
		}
		defer server.stop(syscall.SIGKILL)
	}

	rooms := []*room{newRoom("")}
	for n := 1; n < numRooms; n++ {
		rooms = append(rooms, newRoom(fmt.Sprint("room-", n)))
	}
	begin := time.Now()
	var clients sync.WaitGroup
	observers := s.startClients(&clients, rooms, begin.Add(duration))
	disturb := s.restart
	if s.nats {
		disturb = s.disturb
	}
	if err := disturb(begin, duration); err != nil {
		return err
	}
	clients.Wait()
	for _, u := range observers { // after the users, who have resent messages
		clients.Go(u.finish)
	}
	clients.Wait()
	for _, server := range s.servers {
		server.addMetrics()
		server.checkIdle()
	}
	for _, r := range rooms {
		r.check(s.report, s.begins, s.nats)
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
		if err := s.servers[0].restart(signal, 0); err != nil {
			return err
		}
	}
	return nil
}
