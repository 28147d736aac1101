// Bench puts this server and the gorilla example under the same loads and prints a table of
// what it measured.
//
// Usage:
//
//	go run ./bench [flags]
//
// The flags are:
//
//	-loads A,C,...
//		The loads; without the flag all of them but K, with -nats C, E and K.
//	-rounds n
//		The number of rounds. In a round, the servers meet each load in the order
//		A B B A, so that a machine that gets slower or faster favours neither.
//	-seconds s
//		The length of the window in which a run measures, after a warm-up.
//	-against file
//		The program to compare with instead of the example: another build of this
//		server, such as one of the commit before.
//	-against "command {addr}"
//		Or a server of any other make: a command that listens on the host:port that
//		stands for {addr}.
//
// A server of another make must send each text message that comes in at /ws to everyone who
// is connected there, in one order and the sender included. Several messages may share one
// that is sent, joined by newlines. To compare with uWebSockets, write a program around its
// App whose behavior for /ws subscribes each socket to a topic in open, and publishes each
// message to it in message, with App::publish (WebSocket::publish would leave out the sender);
// with its compression DISABLED and its maxBackpressure so large that nobody misses a line.
// With gws, write a handler whose OnOpen adds the connection to a list and whose OnMessage
// makes a gws.NewBroadcaster and calls its Broadcast for each. Let both take host:port as their
// argument, build them with optimization (c++ -O3 -flto; go build), and then
//
//	go run ./bench -loads A,B,C,E -against "/path/to/uws {addr}"
//	-nats
//		Compare the server over NATS with the server in memory. Each run has a fresh node of
//		NATS beside it on this machine, which the module in e2e builds.
//
// Each run has a fresh server process on a free port of 127.0.0.1. The bench's own process
// is the load generator. Messages have 64 bytes. The table shows medians over the runs, and
// the ratio of ours to the other's. Each run's numbers go to standard error.
//
// The generator checks what it receives: each client that stays connected must receive each
// line once, in the same order as all others. Otherwise the table ends with a fault, and
// the exit status is 1. Connections that a server ended are counted as disconnected: what
// they missed is not a fault, and they do not come back.
//
// CPU time is that of the server's process. It does not include what the kernel does in
// interrupts or at the generator's ends of the connections, nor, with -nats, that of the node. Servers and generator share the
// machine's processors: compare numbers of one machine and one table only.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	names := flag.String("loads", "", "which `loads`, separated by commas; all if empty")
	rounds := flag.Int("rounds", 2, "how many `rounds`, each of two runs a server and load")
	seconds := flag.Float64("seconds", 4, "how many `seconds` to measure")
	against := flag.String("against", "", "compare with this program `file`, another build of this server, or with a \"command {addr}\"")
	nats := flag.Bool("nats", false, "compare the server over NATS with the server in memory")
	flag.Parse()
	if *nats && *names == "" {
		*names = "C,E,K"
	}
	rows, err := selectRows(*names)
	switch {
	case *nats && *against != "":
		usageError("-nats and -against exclude each other")
	case err != nil:
		usageError("-loads: %v", err)
	case *rounds < 1:
		usageError("-rounds must be 1 or more")
	case !(*seconds > 0 && *seconds <= 60):
		usageError("-seconds must be more than 0, and 60 at most")
	case flag.NArg() > 0:
		usageError("stray argument %q", flag.Arg(0))
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := compare(ctx, rows, *rounds, time.Duration(*seconds*float64(time.Second)), *against, *nats); ctx.Err() != nil {
		log.Fatal("interrupted")
	} else if err != nil {
		log.Fatal(err)
	}
}

// usageError prints what is wrong with the command line and exits with status 2.
func usageError(format string, args ...any) {
	fmt.Fprintf(flag.CommandLine.Output(), format+"\n", args...)
	flag.Usage()
	os.Exit(2)
}

// compare builds both programs, runs them under the loads that the rows need, and prints
// the table.
func compare(ctx context.Context, rows []row, rounds int, window time.Duration, against string, nats bool) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := build(ctx, dir, against, nats)
	if err != nil {
		return err
	}
	results := results{programs: programs, rounds: rounds, window: window, runs: map[series][]result{}}
	for range rounds {
		for _, spec := range loads {
			if !needed(rows, spec.name) {
				continue
			}
			spec.settle = max(spec.settle, 500*time.Millisecond) // for the last client to be registered
			spec.warmUp, spec.window, spec.idleTimeout = time.Second, window, 5*time.Second
			for _, p := range []int{ours, other, other, ours} {
				if p == other && spec.oursOnly {
					continue
				}
				r, err := run(ctx, programs[p], spec)
				if err != nil {
					return fmt.Errorf("%s, load %s: %w", programs[p].name, spec.name, err)
				}
				log.Printf("%-11s %-8s %v", spec.name, programs[p].name, r)
				results.add(series{p, spec.name}, r)
			}
		}
	}
	fmt.Print(results.table(rows))
	if len(results.faults) > 0 {
		return fmt.Errorf("%d runs with faults", len(results.faults))
	}
	return nil
}

// A program is a server to put under load.
type program struct {
	name string
	path string
	args []string // in which {addr} stands for the address to listen on
	dir  string   // to start it in; "" for any
	node string   // the nats-server to start beside it; "" for none
}

// addrMark stands for the address to listen on, in the arguments of a program.
const addrMark = "{addr}"

// newCommand returns the program of a command line. It knows no quotes.
func newCommand(line string) program {
	fields := strings.Fields(line)
	return program{name: "against", path: fields[0], args: fields[1:]}
}

// argsFor returns the arguments of a program that is to listen on an address.
func (p program) argsFor(addr string) []string {
	args := slices.Clone(p.args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], addrMark, addr)
	}
	return args
}

// The indexes of the two programs.
const (
	ours  = iota
	other // the example, or the program of -against
)

// build makes the two programs in dir.
func build(ctx context.Context, dir, against string, nats bool) (programs [2]program, err error) {
	programs[ours] = program{name: "chat", path: filepath.Join(dir, "chat"), args: []string{"-addr", addrMark, "-rate", "0", "-max-clients", "15000"}}
	if _, err := goTool(ctx, "build", "-o", programs[ours].path, "chat"); err != nil {
		return programs, err
	}
	if nats {
		programs[other] = programs[ours]
		programs[ours].name, programs[other].name = "with NATS", "in memory"
		programs[ours].node, err = buildNode(ctx, dir)
		return programs, err
	}
	if strings.Contains(against, addrMark) {
		programs[other] = newCommand(against)
		return programs, nil
	}
	if against != "" {
		path, err := filepath.Abs(against)
		programs[other] = program{name: "against", path: path, args: programs[ours].args}
		return programs, err
	}
	const example = "github.com/gorilla/websocket/examples/chat"
	home, err := goTool(ctx, "list", "-f", "{{.Dir}}", example) // where its page is
	if err != nil {
		return programs, err
	}
	programs[other] = program{name: "example", path: filepath.Join(dir, "example"), args: []string{"-addr", addrMark}, dir: home}
	_, err = goTool(ctx, "build", "-o", programs[other].path, example)
	return programs, err
}

// buildNode makes the nats-server that the module in e2e requires in dir, and returns its path.
func buildNode(ctx context.Context, dir string) (string, error) {
	root, err := goTool(ctx, "list", "-m", "-f", "{{.Dir}}", "chat")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "nats-server")
	if _, err := goTool(ctx, "build", "-C", filepath.Join(root, "e2e"), "-o", path, "github.com/nats-io/nats-server/v2"); err != nil {
		return "", fmt.Errorf("-nats needs nats-server, which is a tool of the module in e2e: %w", err)
	}
	return path, nil
}

// goTool runs the go command and returns what it prints.
func goTool(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "go", args...)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
