package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"chat/internal/protocol"
)

const (
	maxFlood       = 500                    // messages of a flood
	floodTime      = 45 * time.Second       // until the server has read a long flood at its rate: later floods are short
	idleTimeout    = 70 * time.Second       // after which the server has surely disconnected a client that is silent
	finishTimeout  = 3 * time.Minute        // for a user until all its messages are acknowledged, beside resendTime for each
	resendTime     = 200 * time.Millisecond // twice what the default -rate allows
	witnessTimeout = 10 * time.Second       // for the witness's message to come back: the machine may be busy
	natsTimeout    = 75 * time.Second       // the same, and for other answers, when nodes fail: as long as a fault lasts, and an election
	maxVisited     = 1500                   // rooms of a walk to come back to: more than the server keeps
)

// A user is well-behaved, but may have a bad connection and annoying habits. One goroutine
// at a time drives it, and draws what it does from its own random numbers: they are the same
// in every run of a seed.
type user struct {
	soak     *soak
	number   int    // it has an address of its own
	id       string // its messages and refs begin with it
	name     string // "" for none
	protocol protocol.Protocol
	rand     *rand.Rand
	lines    int // messages made up
	sessions map[*room]*session
}

// newUser returns the user of a number, with protocol and name as the seed says.
func (s *soak) newUser(n int) *user {
	random := rand.New(rand.NewPCG(s.seed, uint64(n)))
	u := &user{soak: s, number: n, id: fmt.Sprint("u", n), protocol: protocol.ChatV1, rand: random, sessions: make(map[*room]*session)}
	if random.IntN(4) == 0 {
		u.protocol = protocol.Classic
	}
	if random.IntN(2) == 0 {
		u.name = fmt.Sprint("Ada ", n)
	}
	return u
}

// patience returns how long a client waits for an answer that usually takes at most d.
func (s *soak) patience(d time.Duration) time.Duration {
	if s.nats {
		return natsTimeout
	}
	return d
}

// between draws a duration from least up to most.
func (u *user) between(least, most time.Duration) time.Duration {
	return least + time.Duration(u.rand.Int64N(int64(most-least)))
}

// words are what messages are made of: some are difficult in JSON, HTML or UTF-8, and one has
// several lines.
var words = []string{"well", "I", "see", `"so"`, `back\slash`, "<b>bold</b>", "&amp;", "café", "naïve", "😀", "日本語", "{}", "null", "'", "so:\n\n\tindented"}

// text makes up a message, about as long as it may be if it is to be long. No two are the
// same in their first 40 bytes.
func (u *user) text(long bool) string {
	u.lines++
	var b strings.Builder
	fmt.Fprintf(&b, "%s says %d .", u.id, u.lines)
	for range u.rand.IntN(8) {
		b.WriteString(" " + words[u.rand.IntN(len(words))])
	}
	if long {
		b.WriteString(" " + strings.Repeat("long", (protocol.MaxText-b.Len()-1)/4))
	}
	return b.String()
}

// run visits one room after another until end.
func (u *user) run(rooms []*room, end time.Time) {
	home := rooms[u.rand.IntN(len(rooms))]
	time.Sleep(u.between(0, 3*time.Second))
	for time.Now().Before(end) {
		r := home
		if u.rand.IntN(4) == 0 {
			r = rooms[u.rand.IntN(len(rooms))]
		}
		rate := 0
		act := acts[u.rand.IntN(len(acts))]
		if u.rand.IntN(4) == 0 { // a slow connection
			rate = 2048 + u.rand.IntN(16<<10)
		}
		u.visit(r, rate, act, end)
		pause := u.between(0, 3*time.Second)
		if u.rand.IntN(20) == 0 {
			pause = u.between(5*time.Second, 20*time.Second) // a tunnel
		}
		time.Sleep(pause)
	}
}

// visit connects to a room, does something there, and ends the connection in one of three
// ways.
func (u *user) visit(r *room, rate int, act func(*user, *conn, time.Time), end time.Time) {
	if u.sessions[r] == nil {
		u.sessions[r] = &session{user: u, room: r}
	}
	c := u.sessions[r].join(rate, end)
	if c == nil {
		return
	}
	act(u, c, end)
	switch u.rand.IntN(3) {
	case 0:
		c.leave()
	case 1:
		c.hangUp()
	case 2: // as a machine does that was restarted
		c.socket.SetLinger(0)
		c.hangUp()
	}
}

// acts are what a user may do on a connection, the usual ones more often. Each returns at
// end at the latest, or when the connection has ended.
var acts = []func(*user, *conn, time.Time){
	(*user).chat, (*user).chat, (*user).chat, (*user).chat, (*user).listen, (*user).listen,
	(*user).flood, (*user).freeze, (*user).vanish,
}

// talk sends a message now and then for d, each after a pause of at most maxPause.
func (u *user) talk(c *conn, maxPause, d time.Duration, end time.Time) {
	d = min(d, time.Until(end))
	for until := time.Now().Add(d); time.Now().Before(until) && c.wait(u.between(0, maxPause)); {
		c.send(u.text(u.rand.IntN(50) == 0))
	}
}

// chat talks for a while.
func (u *user) chat(c *conn, end time.Time) {
	u.talk(c, u.between(200*time.Millisecond, 4*time.Second), u.between(5*time.Second, 30*time.Second), end)
}

// listen stays for a while.
func (u *user) listen(c *conn, end time.Time) {
	c.wait(min(u.between(5*time.Second, 40*time.Second), time.Until(end)))
}

// flood sends far more than the rate allows, at once. If the messages are long, those on
// slow connections cannot receive them all.
func (u *user) flood(c *conn, end time.Time) {
	n := 50 + u.rand.IntN(maxFlood-50)
	if time.Until(end) < floodTime {
		n = min(n, 150)
	}
	u.soak.report.count("users", "floods", 1)
	long := u.rand.IntN(2) == 0
	for range n {
		c.send(u.text(long))
	}
	u.listen(c, end)
}

// freeze stops reading for a while, talks meanwhile, and then reads on.
func (u *user) freeze(c *conn, end time.Time) {
	u.soak.report.count("users", "frozen", 1)
	c.prompt.Store(false)
	c.socket.frozen.Store(true)
	u.talk(c, 4*time.Second, u.between(3*time.Second, time.Minute), end)
	c.socket.frozen.Store(false)
	u.listen(c, end)
}

// vanish neither reads nor writes nor hangs up. The server must notice by itself.
func (u *user) vanish(c *conn, end time.Time) {
	u.soak.report.count("users", "vanished", 1)
	idle := c.session.unacknowledged() == 0 && c.resent == 0 // else the server may still be reading, at its rate
	c.prompt.Store(false)
	c.socket.frozen.Store(true)
	begin := time.Now()
	if time.Until(end) < idleTimeout {
		time.Sleep(min(u.between(0, 20*time.Second), time.Until(end)))
		return
	}
	time.Sleep(idleTimeout)
	c.socket.frozen.Store(false)
	if idle && c.socket.rate == 0 && c.wait(10*time.Second) && !c.process.failedSince(begin) { // a slow connection may take longer to read to its end
		u.soak.report.fault("other", "%s in %q was silent for %v and is still connected", u.id, c.session.room.name, idleTimeout)
	}
}

// walk goes from one new room to the next, through more than the server keeps, and sends a
// message in each. Sometimes it comes back to one, which the server may have closed.
func (u *user) walk(end time.Time) {
	var visited []*session
	for time.Now().Before(end) {
		s := &session{user: u, room: newRoom(fmt.Sprintf("%s-%d", u.id, u.lines))}
		if len(visited) > 0 && u.rand.IntN(10) == 0 {
			s = visited[u.rand.IntN(len(visited))]
		} else {
			visited = append(visited, s)
			visited = visited[max(0, len(visited)-maxVisited):]
		}
		c := s.join(0, end)
		if c == nil {
			return
		}
		c.send(u.text(false))
		if !c.waitFor(u.soak.patience(answerTimeout), func() bool { return s.unacknowledged() == 0 }) && c.failed() {
			u.soak.report.fault("gap", "%s sent a message to %q and has not received it", u.id, s.room.name)
		}
		c.leave()
		u.soak.report.count("users", "rooms walked", 1)
		time.Sleep(20 * time.Millisecond)
	}
}

// witness sends a message each second in a room of its own, and measures how long it takes
// to come back.
func (u *user) witness(end time.Time) {
	s := &session{user: u, room: newRoom("witness")}
	for time.Now().Before(end) {
		c := s.join(0, end)
		if c == nil {
			return
		}
		for time.Now().Before(end) {
			begin := time.Now()
			c.send(u.text(false))
			if !c.waitFor(u.soak.patience(witnessTimeout), func() bool { return s.unacknowledged() == 0 }) {
				if c.failed() {
					u.soak.report.fault("other", "the witness waited for %v", time.Since(begin))
				}
				break
			}
			took := time.Since(begin)
			for _, bound := range []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, time.Second, witnessTimeout, natsTimeout} {
				if took <= bound {
					u.soak.report.count("witness", fmt.Sprintf("served within %5d ms", bound.Milliseconds()), 1)
					break
				}
			}
			if !c.wait(time.Second) {
				break
			}
		}
		c.leave()
	}
}

// finish connects to each room until all messages are acknowledged and those before them
// are received.
func (u *user) finish() {
	deadline := time.Now().Add(finishTimeout)
	for _, s := range u.sessions {
		deadline = deadline.Add(time.Duration(s.unacknowledged()) * resendTime)
	}
	for r, s := range u.sessions {
		for finished := false; !finished; {
			c := s.join(0, deadline)
			if c == nil {
				break
			}
			c.wait(200 * time.Millisecond) // for the first message: if none comes, the room has none
			finished = c.waitFor(time.Until(deadline), func() bool { return s.unacknowledged() == 0 && s.caughtUp() })
			c.leave()
		}
		if n := s.unacknowledged(); n > 0 {
			u.soak.report.fault("gap", "%s sent %.40q and %d more to %q and has not received them", u.id, s.outbox[0].text, n-1, r.name)
		} else if !s.caughtUp() {
			u.soak.report.fault("gap", "%s has not received the last message of %q", u.id, r.name)
		}
	}
}
