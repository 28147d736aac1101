// Soak connects hundreds of clients to a real server, restarts it, and checks that every
// well-behaved client receives what it must, whatever the others do.
//
// Usage:
//
//	go run ./soak [flags]
//
// The flags are:
//
//	-minutes n
//		How long the clients are connected. The run takes up to three minutes more, in
//		which they resend what was not acknowledged and receive the end.
//	-seed n
//		What the behaviour of all clients is drawn from. The same seed gives the same
//		behaviour, but not the same timing. Without the flag the seed is a new one, which
//		is printed first.
//
// Some of the users send messages now and then, some send hundreds at once, read slowly,
// stop reading for a while, hang up without a close frame, or vanish. Others break a rule of
// the protocol with every connection, or walk through more rooms than there may be.
// Meanwhile the server is stopped or killed in turn, and started again. Well-behaved
// users reconnect, resend what was not acknowledged, and record what they receive. In the
// end the records of each room are compared: there must be one order, in which nobody
// misses a message that it should have received (a gap) and nothing comes twice (a
// double). When all have left, the server must be as it was at its start: no goroutine,
// descriptor or connection more.
//
// The summary goes to standard output. The exit status is 1 if there was a fault, 2 for an
// error of use.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("soak: ")
	minutes := flag.Float64("minutes", 1, "keep clients connected for so many `minutes`")
	seed := flag.Uint64("seed", 0, "draw the clients' behaviour from this `number`; 0 for a new one")
	flag.Parse()
	if flag.NArg() > 0 {
		usageError("stray argument %q", flag.Arg(0))
	}
	if !(*minutes > 0) { // not a number is not, either
		usageError("-minutes must be more than 0")
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Println("seed", *seed)
	s := newSoak(ctx, *seed)
	err := s.run(time.Duration(*minutes * float64(time.Minute)))
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted")
	}
	if err != nil {
		log.Print(err)
	}
	fmt.Print(s.report.details())
	if err != nil || s.report.bad() {
		os.Exit(1)
	}
}

// usageError says what is wrong with the command line and exits with status 2.
func usageError(format string, args ...any) {
	fmt.Fprintf(flag.CommandLine.Output(), format+"\n", args...)
	flag.Usage()
	os.Exit(2)
}
