package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chat/e2e/engine"
)

var failovers = flag.Int("failovers", 1, "measure each kind of failure `n` times")

// What fails while people talk, on three servers and three nodes, costs nothing but a pause.
// The pause is the longest time from when a message is said until all have received it: those
// too who were connected to what failed. With -failovers 10 its median and worst are measured:
//
//	go test -run TestFailover -failovers 10 -timeout 1h -v .
func TestFailover(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	var chats []*chat
	for range 3 {
		chats = append(chats, startShared(t, nodes))
	}
	var roamers []*roamer
	for i, c := range chats {
		for n := range 3 {
			others := append([]*chat{c}, append(slices.Clone(chats[:i]), chats[i+1:]...)...)
			roamers = append(roamers, roam(t, fmt.Sprintf("u%d-%d", i, n), "", others...))
		}
	}
	for _, f := range []struct {
		what  string
		fail  func(t *testing.T) (mend func())
		limit time.Duration
	}{
		{"a server is stopped", func(*testing.T) func() {
			c := roamers[rand.IntN(len(roamers))].server()
			c.stop()
			return c.startAgain
		}, 3 * time.Second},
		{"a server is killed", func(*testing.T) func() {
			c := roamers[rand.IntN(len(roamers))].server()
			c.kill()
			return c.startAgain
		}, 3 * time.Second},
		{"a follower is killed", func(t *testing.T) func() {
			_, followers := roles(t, nodes)
			n := followers[0]
			for _, c := range chats { // rather one that servers are connected to
				log := c.log.String()
				if strings.Contains(log[strings.LastIndex(log, "connected to "):], followers[1].Addr) {
					n = followers[1]
				}
			}
			n.Kill()
			return func() { start(t, n) }
		}, 3 * time.Second},
		{"the leader is killed", func(t *testing.T) func() {
			leader, _ := roles(t, nodes)
			leader.Kill()
			return func() { start(t, leader) }
		}, 20 * time.Second},
		{"the leader is frozen", func(t *testing.T) func() {
			leader, _ := roles(t, nodes)
			leader.Freeze()
			return leader.Thaw
		}, 20 * time.Second},
		{"all nodes are killed and started again", func(t *testing.T) func() {
			nodes.Kill()
			for _, n := range nodes.Nodes {
				start(t, n)
			}
			return func() {}
		}, 40 * time.Second},
	} {
		t.Run(f.what, func(t *testing.T) {
			var pauses []time.Duration
			for range *failovers {
				talk := startTalk(roamers)
				time.Sleep(500 * time.Millisecond)
				mend := f.fail(t)
				marker := talk.next()
				eventually(t, "all have received what was said after the failure", func() bool {
					return !slices.ContainsFunc(roamers, func(r *roamer) bool { return !slices.ContainsFunc(r.all(), marker.is) })
				})
				talk.stop()
				mend()
				wantSame(t, roamers...)
				pauses = append(pauses, talk.longestPause())
				if err := nodes.AwaitCurrent("CHAT"); err != nil {
					t.Fatal(err)
				}
			}
			slices.Sort(pauses)
			worst := pauses[len(pauses)-1]
			t.Logf("median %.1f s, worst %.1f s of %d", pauses[len(pauses)/2].Seconds(), worst.Seconds(), len(pauses))
			if worst > f.limit {
				t.Errorf("somebody waited for %v, want at most %v", worst, f.limit)
			}
		})
	}
}

// roles returns the node that leads the log, and those that follow it.
func roles(t *testing.T, c *engine.Cluster) (leader *engine.Node, followers []*engine.Node) {
	t.Helper()
	leader, followers, err := c.Roles("CHAT")
	if err != nil {
		t.Fatal(err)
	}
	return leader, followers
}

func start(t *testing.T, n *engine.Node) {
	t.Helper()
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
}

// A talk is messages that roamers say in turn, one each 50 ms.
type talk struct {
	roamers []*roamer
	mu      sync.Mutex
	said    []heard
	ending  bool
	ended   chan struct{}
}

var talked int // messages of all talks: each has a number of its own

func startTalk(roamers []*roamer) *talk {
	k := &talk{roamers: roamers, ended: make(chan struct{})}
	go func() {
		defer close(k.ended)
		for ; ; time.Sleep(50 * time.Millisecond) {
			k.mu.Lock()
			if k.ending {
				k.mu.Unlock()
				return
			}
			talked++
			speaker := roamers[talked%len(roamers)]
			h := heard{text: fmt.Sprint(speaker.name, " says ", talked), at: time.Now()}
			k.said = append(k.said, h)
			k.mu.Unlock()
			speaker.say(h.text)
		}
	}()
	return k
}

// stop ends the talk.
func (k *talk) stop() {
	k.mu.Lock()
	k.ending = true
	k.mu.Unlock()
	<-k.ended
}

// next returns a message that is said after this call.
func (k *talk) next() heard {
	k.mu.Lock()
	n := len(k.said)
	k.mu.Unlock()
	for {
		k.mu.Lock()
		if len(k.said) > n {
			defer k.mu.Unlock()
			return k.said[n]
		}
		k.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
}

// is reports whether other is the same message.
func (h heard) is(other heard) bool { return h.text == other.text }

// longestPause returns the longest time from when a message was said until a roamer received it.
func (k *talk) longestPause() (longest time.Duration) {
	said := make(map[string]time.Time)
	for _, h := range k.said {
		said[h.text] = h.at
	}
	for _, r := range k.roamers {
		for _, h := range r.all() {
			if at, ok := said[h.text]; ok {
				longest = max(longest, h.at.Sub(at))
			}
		}
	}
	return longest
}
