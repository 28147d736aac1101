// Soak keeps a real server under fire for a while and checks that nobody who behaves
// is any the worse for it.
//
// Usage:
//
//	go run ./soak [flags]
//
// The flags are:
//
//	-minutes n
//		For how long. A little more is needed at the end, for what is left to be said.
//	-seed n
//		Where all lives are drawn from. The same seed gives the same lives, though not
//		the same moments in which they meet. Without it there is a new one.
//	-clients n
//		How many there are, of all sorts.
//	-server file
//		The program to try. Without it, this tree's server is built.
//	-args "..."
//		More flags for the server.
//	-ulimit n
//		How many files the server may have open.
//	-memory 32MiB
//		How much memory it should make do with (GOMEMLIMIT).
//	-busy
//		Keep all processors busy with something else meanwhile.
//
// Among the clients are some who talk, flood, read slowly or not at all for a while, are
// cut off, vanish, or break every rule of the protocol. Now and then the server is stopped or
// killed, and started again. All who behave come back, say again what may have been
// lost, and note what they hear. In the end they compare: in each room there must be one
// order, and in it nothing that somebody should have heard and did not (a gap), and
// nothing twice (a double). When all have left, the server must have nothing left of them.
//
// The summary goes to standard output. The exit status is 1 if something went wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("soak: ")
	minutes := flag.Float64("minutes", 1, "for how many `minutes`")
	seed := flag.Uint64("seed", rand.Uint64(), "where all lives are drawn from; random if not given")
	clients := flag.Int("clients", 300, "how many there are")
	path := flag.String("server", "", "the program `file` to try; if empty, this tree's server")
	args := flag.String("args", "", "more `flags` for the server")
	ulimit := flag.Int("ulimit", 0, "files that the server may have open; 0 is no limit")
	memory := flag.String("memory", "", "GOMEMLIMIT for the server, such as `32MiB`")
	busy := flag.Bool("busy", false, "keep all processors busy with something else")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		usageError("stray argument %q", flag.Arg(0))
	case !(*minutes > 0):
		usageError("-minutes must be more than 0")
	case *clients < leastClients:
		usageError("-clients must be %d or more", leastClients)
	case *ulimit < 0:
		usageError("-ulimit cannot be negative")
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *busy {
		stop := keepBusy()
		defer stop()
	}
	fmt.Println("seed", *seed)
	s := &soak{
		ctx:     ctx,
		seed:    *seed,
		verdict: newVerdict(),
		server:  &server{path: *path, args: strings.Fields(*args), maxFiles: *ulimit, memory: *memory},
	}
	s.server.verdict = s.verdict
	err := s.with(func() error { return s.run(*clients, time.Duration(*minutes*float64(time.Minute))) })
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted")
	}
	if err != nil {
		log.Print(err)
	}
	fmt.Print(s.verdict.details())
	if err != nil || s.verdict.bad() {
		stop()
		os.Exit(1)
	}
}

// usageError says what is wrong with the command line and exits with status 2.
func usageError(format string, args ...any) {
	fmt.Fprintf(flag.CommandLine.Output(), format+"\n", args...)
	flag.Usage()
	os.Exit(2)
}

// with builds and starts the server, does something with it, and ends it.
func (s *soak) with(run func() error) error {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.server.path == "" {
		if s.server.path, err = build(s.ctx, dir); err != nil {
			return err
		}
	}
	if s.server.addr, err = freeAddr(); err != nil {
		return err
	}
	if hasMetrics(s.server.path) {
		if s.server.metrics, err = freeAddr(); err != nil {
			return err
		}
	}
	if err := s.server.start(); err != nil {
		return err
	}
	defer func() {
		if p := s.server.running.Load(); !p.ended.Load() {
			s.server.stop(syscall.SIGKILL)
		}
	}()
	return run()
}

// raiseFileLimit lets this process have as many connections as it can.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	limit.Cur = limit.Max
	return os.NewSyscallError("setrlimit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
}

// keepBusy starts as many processes as there are processors, which do nothing, with all
// their might.
func keepBusy() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	for range runtime.NumCPU() {
		c := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			log.Print(err)
			continue
		}
		go c.Wait() // killed, it fails
	}
	return cancel
}
