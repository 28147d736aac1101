// Soak connects hundreds of clients to a real server, or to several that share their rooms,
// restarts it, and checks that well-behaved clients receive what they must, whatever the
// others do.
//
// Usage:
//
//	go run ./soak [flags]
//
// The flags are:
//
//	-minutes n
//		How long the clients are connected. Up to three minutes more pass until
//		everything that they sent is acknowledged.
//	-history
//		Let the server keep history on disk: then a restart may lose nothing, and clients
//		must not notice one.
//	-nats
//		Let the servers share their rooms over a cluster of three NATS nodes, and let
//		servers, nodes and the network between them fail.
//	-servers n
//		The number of servers, with -nats. Each connection of a client is to any of them.
//	-seed n
//		What the behaviour of all clients is drawn from. The same seed gives the same
//		behaviour, but not the same timing. Without it the seed is a new one, which is
//		printed first.
//
// Some users send a message now and then, some hundreds at once. Some read slowly, stop
// reading for a while, hang up without a close frame, or vanish. Other clients break the
// protocol, reconnect all the time, leave messages unfinished and connections idle, do not
// read in many rooms, or walk through more rooms than there may be. A witness measures how
// long its messages take to come back. Each client has a loopback address of its own.
//
// Meanwhile the server is stopped and killed in turn, and started again. Users reconnect,
// resend what was not acknowledged, and record what they receive. In the end the records
// are compared: each room must have one order, in which nobody misses a message that it
// should have received (a gap) and nothing comes twice (a double). When all have left, the
// server must have no goroutine, descriptor or connection more than at its start.
//
// With -nats a gap is what no failure may cause: a restart or a move to another server loses
// nothing. Servers are stopped, killed and frozen. Nodes are killed, frozen and cut off from
// each other and from servers, sometimes all at once, sometimes so many that the others can
// store nothing. All of that is over when a fifth of the time is left.
//
// The summary goes to standard output. The exit status is 1 if there was a fault, 2 for an
// error of use.
package main

import (
	"flag"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("soak: ")
	minutes := flag.Float64("minutes", 1, "keep clients connected for so many `minutes`")
	seed := flag.Uint64("seed", 0, "draw the clients' behaviour from this `number`; 0 for a new one")
	history := flag.Bool("history", false, "let the server keep history on disk")
	nats := flag.Bool("nats", false, "let the servers share their rooms over NATS")
	servers := flag.Int("servers", 1, "the `number` of servers, with -nats")
	flag.Parse()
	if flag.NArg() > 0 || !(*minutes > 0) || *servers < 1 || *servers > 1 && !*nats || *history && *nats {
		flag.Usage()
		os.Exit(2)
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}

	fmt.Println("seed", *seed)
	report := newReport()
	s := &soak{seed: *seed, report: report, history: *history, nats: *nats}
	for range *servers {
		s.servers = append(s.servers, &server{soak: s})
	}
	err := s.run(time.Duration(*minutes * float64(time.Minute)))
	report.print()
	if err != nil {
		log.Fatal(err)
	}
	if len(report.faults) > 0 {
		os.Exit(1)
	}
}

// A report is what went wrong in a run, and how often what happened. Any goroutine may add
// to it.
type report struct {
	mu     sync.Mutex
	faults map[string][]string       // by kind: gap, double or other
	counts map[string]map[string]int // by kind and what happened
}

func newReport() *report {
	return &report{faults: make(map[string][]string), counts: make(map[string]map[string]int)}
}

// fault reports that the server did wrong: kind is "gap" if somebody has not received a
// message, "double" if somebody received one twice or too late, else "other".
func (r *report) fault(kind, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[kind] = append(r.faults[kind], fmt.Sprintf(format, args...))
}

// count counts that something of a kind happened n times more.
func (r *report) count(kind, what string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts[kind] == nil {
		r.counts[kind] = make(map[string]int)
	}
	r.counts[kind][what] += n
}

// print prints what happened, one kind a line, and the first ten faults of each kind.
func (r *report) print() {
	for _, kind := range slices.Sorted(maps.Keys(r.counts)) {
		var all []string
		for _, what := range slices.Sorted(maps.Keys(r.counts[kind])) {
			all = append(all, fmt.Sprintf("%s %d", what, r.counts[kind][what]))
		}
		fmt.Printf("%s: %s\n", kind, strings.Join(all, ", "))
	}
	fmt.Printf("gaps %d, doubles %d, other faults %d\n", len(r.faults["gap"]), len(r.faults["double"]), len(r.faults["other"]))
	for _, kind := range slices.Sorted(maps.Keys(r.faults)) {
		for _, fault := range r.faults[kind][:min(len(r.faults[kind]), 10)] {
			fmt.Printf("%s: %s\n", kind, fault)
		}
	}
}
