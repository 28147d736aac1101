package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	numClients  = 300
	numRooms    = 15               // three clients watch each
	offenders   = 30               // of the clients
	walkers     = 2                // of the clients: enough to visit more rooms than there may be
	leastUptime = 15 * time.Second // between two restarts
	settleWait  = 30 * time.Second // for what was the clients' to be gone from the server
	memoryBound = 256 << 20        // more than at its start, at the end: what is garbage is not collected at once
)

// soak is one run.
type soak struct {
	ctx    context.Context
	seed   uint64
	server *server
	report *report

	middle int // memory in the middle of the last process's life
	stops  map[syscall.Signal]int
	series map[string]float64 // of the metrics, summed over processes
}

func newSoak(ctx context.Context, seed uint64) *soak {
	v := newReport()
	return &soak{
		ctx:    ctx,
		seed:   seed,
		report: v,
		server: &server{report: v},
		stops:  make(map[syscall.Signal]int),
		series: make(map[string]float64),
	}
}

// sleep sleeps for so long. It reports false if the run was interrupted.
func (s *soak) sleep(d time.Duration) bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// run builds and starts the server, and ends it.
func (s *soak) run(duration time.Duration) error {
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := s.server.build(s.ctx, dir); err != nil {
		return err
	}
	if err := s.server.start(); err != nil {
		return err
	}
	defer func() {
		if !s.server.running.Load().ended.Load() {
			s.server.stop(syscall.SIGKILL)
		}
	}()
	return s.live(duration)
}

// live lets everyone live for so long, restarts the server meanwhile, and looks at what
// they have heard.
func (s *soak) live(duration time.Duration) error {
	rooms := []*room{newRoom("")}
	for n := range numRooms - 1 {
		rooms = append(rooms, newRoom(fmt.Sprint("room-", n+1)))
	}

	begin := time.Now()
	end := begin.Add(duration)
	var users, observers sync.WaitGroup
	var observing []*user
	index := 0
	next := func() *user {
		index++
		return s.newUser(index)
	}
	for _, r := range rooms {
		for n := range 3 {
			w := next()
			w.classic = n == 2
			observing = append(observing, w)
			observers.Go(func() { w.observe(r, end) })
		}
	}
	for range offenders {
		o := &offender{soak: s, rand: next().rand}
		users.Go(func() { o.run(rooms, end) })
	}
	for range walkers {
		t := next()
		t.classic = false
		users.Go(func() { t.walk(end) })
	}
	for index < numClients {
		p := next()
		users.Go(func() {
			p.live(rooms, end)
			p.finish()
		})
	}
	restarted := s.restarts(begin, duration)
	if restarted == nil {
		s.sleep(time.Until(end))
	}
	users.Wait()
	observers.Wait()
	for _, w := range observing {
		observers.Go(w.finish)
	}
	observers.Wait()
	if restarted != nil {
		return restarted
	}
	s.addCounters()
	final := s.awaitIdle()
	for _, r := range rooms {
		r.check(s.report)
	}
	s.summarize(time.Since(begin), rooms, final)
	return nil
}

// restarts stops and kills the server in turn, first one, then the other, as the seed
// says, and starts it again. The last process has a good share of the run.
func (s *soak) restarts(begin time.Time, duration time.Duration) error {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}
	interval := max(leastUptime, duration/15)
	lives := rand.New(rand.NewPCG(s.seed, 1<<32))
	for n := 0; ; n++ {
		next := begin.Add(time.Duration(n+1) * interval)
		if next.Sub(begin) > duration*6/10 {
			break
		}
		if !s.sleep(time.Until(next)) {
			return nil
		}
		if n%2 == 0 {
			lives.Shuffle(2, func(i, j int) { signals[i], signals[j] = signals[j], signals[i] })
		}
		s.addCounters()
		if err := s.restart(signals[n%2]); err != nil {
			return err
		}
	}
	from := time.Since(begin)
	s.sleep((duration - from) / 2)
	u, err := s.server.usage(s.server.running.Load())
	s.middle = u.memory
	return err
}

// restart ends the server with a signal and starts it again.
func (s *soak) restart(signal syscall.Signal) error {
	if err := s.server.stop(signal); err != nil {
		s.report.fault("%v", err)
	}
	s.stops[signal]++
	return s.server.start()
}

// addCounters adds up what the metrics count, before the process ends.
func (s *soak) addCounters() {
	series, err := s.server.scrape(s.server.running.Load())
	if err != nil {
		s.report.fault("no metrics: %v", err)
		return
	}
	for name, value := range series {
		if strings.HasPrefix(name, "chat_") {
			s.series[name] += value
		}
	}
}

// awaitIdle waits until the server has nothing left of its clients, and returns what it
// has then.
func (s *soak) awaitIdle() usage {
	p := s.server.running.Load()
	var u usage
	var err error
	for deadline := time.Now().Add(settleWait); time.Now().Before(deadline) && s.sleep(200*time.Millisecond); {
		u, err = s.server.usage(p)
		if err == nil && u.users == 0 && same(u, p.first) {
			break
		}
	}
	switch {
	case err != nil:
		s.report.fault("cannot measure the server: %v", err)
	case u.users != 0:
		s.report.fault("all have left, but the server counts %d connections", u.users)
	case !same(u, p.first):
		s.report.fault("all have left, but there are %d goroutines and %d descriptors; at the start there were %d and %d",
			u.goroutines, u.files, p.first.goroutines, p.first.files)
	case u.memory > p.first.memory+memoryBound:
		s.report.fault("all have left, but the server has %s; at its start it had %s", mib(u.memory), mib(p.first.memory))
	}
	return u
}

// same reports whether there are as many goroutines and descriptors as there were.
func same(now, then usage) bool {
	return now.files == then.files && now.goroutines == then.goroutines
}

// summarize prints what happened.
func (s *soak) summarize(took time.Duration, rooms []*room, final usage) {
	v := s.report
	deliveries, said := 0, 0
	for _, r := range rooms {
		deliveries += r.deliveries
		said += len(r.heard)
		for _, t := range r.classicSpans {
			deliveries += len(t.heard)
		}
	}
	first := s.server.running.Load().first
	fmt.Printf("seed %d, %v, %d clients in %d rooms, %d restarts (%d SIGTERM, %d SIGKILL)\n", s.seed, took.Round(time.Second),
		numClients, len(rooms), s.stops[syscall.SIGTERM]+s.stops[syscall.SIGKILL], s.stops[syscall.SIGTERM], s.stops[syscall.SIGKILL])
	fmt.Printf("lines said %d, different ones heard %d, deliveries checked %d, lines said again and heard once %d\n", v.counted("said"), said, deliveries, v.counted("repeats"))
	fmt.Printf("cuts %d, came back %d, told to have missed some %d, floods %d, frozen %d, vanished %d, rooms only visited %d\n",
		v.counted("cut"), v.counted("came back"), v.counted("missed"), v.counted("floods"), v.counted("frozen"), v.counted("vanished"), v.counted("rooms visited"))
	fmt.Printf("bad: %s\n", v.list("bad"))
	fmt.Printf("ended by the server: %s\n", v.list("ended"))
	fmt.Printf("not let in: %s\n", v.list("not let in"))
	fmt.Printf("metrics: %s\n", s.counters())
	fmt.Printf("gaps %d, doubles %d (over restarts %d, after more than is kept %d), other faults %d\n",
		len(v.faults["gap"]), len(v.faults["double"]), v.overRestarts, v.forgotten, len(v.faults["fault"]))
	fmt.Printf("goroutines %d/%d, descriptors %d/%d, memory %s/%s/%s (last process: start, middle, end)\n",
		first.goroutines, final.goroutines, first.files, final.files, mib(first.memory), mib(s.middle), mib(final.memory))
}

// counters lists what the server's own counters have counted, over all processes.
func (s *soak) counters() string {
	var all []string
	for name, value := range s.series {
		if strings.Contains(name, "_total") && value > 0 {
			all = append(all, fmt.Sprintf("%s %.0f", strings.Replace(strings.TrimPrefix(name, "chat_"), "_total", "", 1), value))
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func mib(bytes int) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
