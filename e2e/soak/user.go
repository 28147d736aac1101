package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"chat/internal/protocol"
)

const (
	mostFlood  = 500
	floodTime  = 45 * time.Second // until the server has taken most of that, at its rate
	goneTime   = 60 * time.Second // after which the server has forgotten who says nothing
	finishWait = 3 * time.Minute  // for somebody to come back a last time and say what is left

	endPause = 200 * time.Millisecond // before nobody knows a room's last message because there is none
	endWait  = 10 * time.Second       // for that to come
)

// user is somebody who behaves, on bad lines and with bad habits. Its life is
// its own goroutine's, and drawn from its own numbers: the same in every run of one seed.
type user struct {
	soak    *soak
	owner   string // names it here, and begins its refs
	name    string // "" for none
	classic bool
	rand    *rand.Rand
	said    int // lines so far
	came    int // connections so far

	mu       sync.Mutex
	sessions map[*room]*session
}

func (s *soak) newUser(index int) *user {
	p := &user{
		soak:     s,
		owner:    fmt.Sprint("p", index),
		rand:     rand.New(rand.NewPCG(s.seed, uint64(index))),
		sessions: make(map[*room]*session),
	}
	p.classic = p.rand.IntN(4) == 0
	if p.rand.IntN(2) == 0 {
		p.name = fmt.Sprint("Ada ", index)
	}
	return p
}

// session returns the user's session in a room.
func (p *user) session(r *room) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sessions[r] == nil {
		p.sessions[r] = r.newSession(p.owner)
	}
	return p.sessions[r]
}

// forget forgets a room, and all that was heard there.
func (p *user) forget(r *room) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, r)
}

// between draws a time.
func (p *user) between(least, most time.Duration) time.Duration {
	return least + time.Duration(p.rand.Int64N(int64(most-least)))
}

// join connects, as often as it takes. It returns nil if the run ends before.
func (p *user) join(r *room, pace int, end time.Time) *conn {
	for failed := 1; time.Now().Before(end); failed++ {
		if v, err := p.open(r, pace); err == nil {
			if p.came++; p.came > 1 {
				p.soak.report.count("came back")
			}
			return v
		}
		if !p.soak.sleep(backoff(failed)) {
			break
		}
	}
	return nil
}

// words are what lines are made of: what JSON, HTML and UTF-8 make difficult among them.
var words = []string{"well", "I", "see", `"so"`, `back\slash`, "<b>bold</b>", "&amp;", "café", "naïve", "😀", "日本語", "{}", "null", "'"}

// line makes up something to say, as long as may be if it is to be long. No two are the same.
func (p *user) line(long bool) string {
	p.said++
	var b strings.Builder
	fmt.Fprintf(&b, "%s says %d .", p.owner, p.said)
	for range p.rand.IntN(8) {
		b.WriteString(" " + words[p.rand.IntN(len(words))])
	}
	if long {
		b.WriteString(" " + strings.Repeat("long", (protocol.MaxText-b.Len()-1)/4))
	}
	return b.String()
}

// live is a life: a stay in some room after another, each ending in its own way, until
// the end. Then what is left is said, and the last of it heard.
func (p *user) live(rooms []*room, end time.Time) {
	home := rooms[p.rand.IntN(len(rooms))]
	p.soak.sleep(p.between(0, 3*time.Second))
	for time.Now().Before(end) {
		r := home
		if p.rand.IntN(4) == 0 {
			r = rooms[p.rand.IntN(len(rooms))]
		}
		pace := 0
		stay := stays[p.rand.IntN(len(stays))]
		if p.rand.IntN(4) == 0 { // on a slow line
			pace = 2048 + p.rand.IntN(16<<10)
		}
		if v := p.join(r, pace, end); v != nil {
			stay(p, v, end)
			p.part(v)
		}
		pause := p.between(0, 3*time.Second)
		if p.rand.IntN(20) == 0 {
			pause = p.between(5*time.Second, 20*time.Second) // a tunnel
		}
		p.soak.sleep(pause)
	}
}

// stays are what somebody may do on a connection.
var stays = []func(*user, *conn, time.Time){
	(*user).talk, (*user).talk, (*user).talk, (*user).talk, (*user).listen, (*user).listen,
	(*user).flood, (*user).freeze, (*user).vanish,
}

// part ends a connection in one of the ways there are.
func (p *user) part(v *conn) {
	switch p.rand.IntN(3) {
	case 0:
		v.leave()
	case 1:
		p.soak.report.count("cut")
		v.cut()
	case 2:
		p.soak.report.count("cut")
		v.reset()
	}
}

// chat says a line now and then, each after a pause of at most so long.
func (p *user) chat(v *conn, pause, duration time.Duration, end time.Time) {
	until := time.Now().Add(duration)
	if end.Before(until) {
		until = end
	}
	for time.Now().Before(until) && v.wait(p.between(0, pause)) {
		v.say(p.line(p.rand.IntN(50) == 0))
	}
}

func (p *user) talk(v *conn, end time.Time) {
	p.chat(v, p.between(200*time.Millisecond, 4*time.Second), p.between(5*time.Second, 30*time.Second), end)
}

func (p *user) listen(v *conn, end time.Time) {
	v.wait(min(p.between(5*time.Second, 40*time.Second), time.Until(end)))
}

// flood says far more than its rate allows, at once. When the lines are long, too, those on
// slow lines cannot take them.
func (p *user) flood(v *conn, end time.Time) {
	n := 50 + p.rand.IntN(mostFlood-50)
	if time.Until(end) < floodTime {
		n = min(n, 150)
	}
	p.soak.report.count("floods")
	long := p.rand.IntN(2) == 0
	for range n {
		v.say(p.line(long))
	}
	p.listen(v, end)
}

// freeze stops reading for a while, talks meanwhile, and then reads on.
func (p *user) freeze(v *conn, end time.Time) {
	p.soak.report.count("frozen")
	v.attentive.Store(false)
	v.pipe.frozen.Store(true)
	p.chat(v, 4*time.Second, p.between(3*time.Second, time.Minute), end)
	v.pipe.frozen.Store(false)
	p.listen(v, end)
}

// vanish neither reads nor writes nor hangs up: the server has to notice.
func (p *user) vanish(v *conn, end time.Time) {
	p.soak.report.count("vanished")
	heard := v.session.waiting() == 0 // else the server may still be reading it, at its rate
	v.attentive.Store(false)
	v.pipe.frozen.Store(true)
	long := goneTime + 10*time.Second
	if time.Until(end) < long {
		p.soak.sleep(min(p.between(0, 20*time.Second), time.Until(end)))
		return
	}
	p.soak.sleep(long)
	v.pipe.frozen.Store(false)
	if heard && v.pipe.pace == 0 && v.wait(10*time.Second) { // on a slow line there may be more to read than that
		p.soak.report.fault("%s in %q did nothing for %v and is still connected", p.owner, v.session.room.name, long)
	}
}

// observe stays in a room and listens, but for moments.
func (p *user) observe(r *room, end time.Time) {
	for time.Now().Before(end) {
		v := p.join(r, 0, end)
		if v == nil {
			return
		}
		v.wait(min(p.between(10*time.Second, 30*time.Second), time.Until(end)))
		p.part(v)
	}
}

// walk goes from one new room to the next, more than there may be, says something
// there, and sometimes comes back to one that may have been let go meanwhile.
func (p *user) walk(end time.Time) {
	s := p.soak
	var visited []*room
	for time.Now().Before(end) && s.ctx.Err() == nil {
		r := newRoom(fmt.Sprintf("%s-%d", p.owner, p.said))
		if len(visited) > 0 && p.rand.IntN(10) == 0 {
			r = visited[p.rand.IntN(len(visited))]
		} else {
			visited = append(visited, r)
		}
		v := p.join(r, 0, end)
		if v == nil {
			return
		}
		v.say(p.line(false))
		if !v.waitFor(answerWait, func() bool { return v.session.waiting() == 0 }) && !v.process.ended.Load() && s.ctx.Err() == nil {
			s.report.gap("%s said something in %q, and it did not come back", p.owner, r.name)
		}
		v.leave()
		s.report.count("rooms visited")
		if len(visited) > 1500 {
			p.forget(visited[0])
			visited = visited[1:]
		}
		s.sleep(20 * time.Millisecond)
	}
}

// finish comes back to each room, until all that was said there has come back, and once
// more to hear the end.
func (p *user) finish() {
	deadline := time.Now().Add(finishWait)
	for r, e := range p.sessions {
		for e.waiting() > 0 && time.Now().Before(deadline) {
			if v := p.join(r, 0, deadline); v != nil {
				v.waitFor(finishWait, func() bool { return e.waiting() == 0 })
				v.leave()
			}
		}
		for caughtUp := p.classic; !caughtUp; {
			v := p.join(r, 0, deadline)
			if v == nil {
				break
			}
			v.wait(endPause)
			caughtUp = v.waitFor(endWait, e.caughtUp)
			v.leave()
		}
		if p.soak.ctx.Err() != nil {
			return
		}
		if n := e.waiting(); n > 0 {
			p.soak.report.gap("%s said %q and %d more in %q: that never came back", p.owner, e.outbox[0].text, n-1, r.name)
		}
		if !p.classic && !e.caughtUp() {
			p.soak.report.gap("%s could not hear the last message in %q", p.owner, r.name)
		}
	}
}
