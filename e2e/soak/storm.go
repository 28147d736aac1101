package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	stormSpeakers = 3
	stormLines    = 5                // that each of them says, one a second
	idleTime      = 10 * time.Second // for which the processor time of idle ones is measured
	returnWait    = 2 * time.Minute  // for all to be back
)

// A storm is many pages in one room, who all lose the server at the same moment and come
// back by the page's rules.
type storm struct {
	*soak
	room   *room
	pages  []*person
	visits []atomic.Pointer[visit] // of each page, when it is connected
	over   chan struct{}           // closed when all are to leave

	mu    sync.Mutex
	times []time.Time // when pages came in, since gather was called
}

// storm measures so many idle pages, how long a line takes to all of them, and how they come
// back after a stop and after a kill.
func (s *soak) storm(n int) error {
	t := &storm{soak: s, room: newRoom(""), visits: make([]atomic.Pointer[visit], n), over: make(chan struct{})}
	first := s.server.running.Load().first
	begin := time.Now()
	var pages sync.WaitGroup
	for i := range n {
		p := s.newPerson(i)
		p.classic = false
		t.pages = append(t.pages, p)
		pages.Go(func() { t.stay(i) })
		if i%20 == 19 {
			s.sleep(10 * time.Millisecond)
		}
	}
	if err := t.gather("came", begin); err != nil {
		return err
	}
	if err := t.idle(first); err != nil {
		return err
	}
	t.talk()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for i := range stormSpeakers {
			t.say(i) // it is on its way as the server ends
		}
		begin := time.Now()
		t.mu.Lock()
		t.times = nil
		t.mu.Unlock()
		if err := s.server.stop(signal); err != nil {
			s.verdict.odd("%v", err)
		}
		fmt.Printf("%v: ended after %v\n", signal, time.Since(begin).Round(time.Millisecond))
		if err := s.server.start(false); err != nil {
			return err
		}
		if err := t.gather("are back", begin); err != nil {
			return err
		}
		t.talk()
	}
	close(t.over)
	pages.Wait()
	t.room.check(s.verdict)
	fmt.Printf("lines heard %d, deliveries checked %d, gaps %d, doubles %d (over restarts %d), other faults %d\n",
		len(t.room.heard), t.room.deliveries, len(s.verdict.faults["gap"]), len(s.verdict.faults["double"]), s.verdict.overRestarts, len(s.verdict.faults["fault"]))
	return nil
}

// stay keeps a page connected until all is over.
func (t *storm) stay(i int) {
	p := t.pages[i]
	for {
		v := p.join(t.room, 0, time.Now().Add(returnWait))
		if v == nil {
			return
		}
		t.visits[i].Store(v)
		t.mu.Lock()
		t.times = append(t.times, time.Now())
		t.mu.Unlock()
		select {
		case <-v.over:
		case <-t.over:
			v.leave()
			return
		case <-t.ctx.Done():
			return
		}
		t.visits[i].Store(nil)
		t.sleep(backoff(0))
	}
}

// gather waits until all pages are in, and prints how long that took.
func (t *storm) gather(what string, begin time.Time) error {
	var times []time.Time
	for deadline := time.Now().Add(returnWait); len(times) < len(t.pages); {
		if time.Now().After(deadline) || !t.sleep(50*time.Millisecond) {
			return fmt.Errorf("only %d of %d %s within %v", len(times), len(t.pages), what, returnWait)
		}
		t.mu.Lock()
		times = slices.Clone(t.times)
		t.mu.Unlock()
	}
	slices.SortFunc(times, time.Time.Compare)
	after := func(share float64) time.Duration {
		return times[int(share*float64(len(times)-1))].Sub(begin).Round(10 * time.Millisecond)
	}
	rate := 0.9 * float64(len(times)) / (after(0.95) - after(0.05)).Seconds()
	fmt.Printf("%d %s: half after %v, 99 %% after %v, all after %v, %.0f a second; attempts that failed: %s\n",
		len(times), what, after(0.5), after(0.99), after(1), rate, t.verdict.list("not let in"))
	t.verdict.forget("not let in")
	return nil
}

// idle measures what pages cost that do nothing.
func (t *storm) idle(first usage) error {
	p := t.server.running.Load()
	t.sleep(idleTime / 2)
	before := p.cpuTime()
	t.sleep(idleTime)
	used := p.cpuTime() - before
	u, err := t.server.usage(p)
	n := len(t.pages)
	fmt.Printf("idle: memory %s, %.1f KiB each; processor %.1f %%\n", mib(u.memory),
		float64(u.memory-first.memory)/1024/float64(n), 100*used.Seconds()/idleTime.Seconds())
	return err
}

// say has a page say something.
func (t *storm) say(i int) (text string) {
	text = t.pages[i].line(false)
	if v := t.visits[i].Load(); v != nil {
		v.say(text)
	}
	return text
}

// talk has a few pages say a line each second, and prints how long it took until everyone
// had heard it.
func (t *storm) talk() {
	said := map[string]time.Time{}
	for range stormLines {
		for i := range stormSpeakers {
			now := time.Now()
			said[begins(t.say(i))] = now
		}
		t.sleep(time.Second)
	}
	var took []time.Duration
	for deadline := time.Now().Add(20 * time.Second); len(took) < len(said) && time.Now().Before(deadline) && t.sleep(100*time.Millisecond); {
		took = took[:0]
		t.room.mu.Lock()
		for _, l := range t.room.heard {
			if at, ok := said[l.text]; ok && l.times >= len(t.pages) {
				took = append(took, l.last.Sub(at))
			}
		}
		t.room.mu.Unlock()
	}
	if len(took) < len(said) {
		t.verdict.gap("of %d lines, only %d were heard by all", len(said), len(took))
		return
	}
	slices.Sort(took)
	fmt.Printf("a line has reached everyone after %v in the middle, %v at most\n",
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}
