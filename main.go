// Chat is a classic web chat server: one binary, one page. Everyone who has the page open
// sees what anyone types.
//
// Usage:
//
//	chat [flags]
//
// Then open http://localhost:8080. The flags are:
//
//	-addr host:port
//		The address to listen on. The default, :8080, is every network this machine
//		is on.
//	-origin host,host:port,...
//		The hosts whose pages may join, written as browsers send them; one without a
//		port stands for any port. A page that the server's own address shows, under an
//		IP address or localhost, may always join. Without the flag, a page of any host
//		may join the host that it came from.
//	-proxy addr,prefix,...
//		The proxies in front of the server, as IP addresses or CIDR prefixes: what they
//		add to X-Forwarded-For counts as the address that a request comes from. The
//		default is this machine; "" is none.
//	-rate n
//		How many messages a second one connection may send, with bursts of ten times
//		that. A connection that sends more is throttled: the server reads from it more
//		slowly. An address may send ten times as much over all its connections, and
//		makes rooms at a limited pace. 0 turns off all three limits.
//	-max-clients n
//		How many connections there may be at a time.
//	-history dir
//		Keep what is said in this directory, in a file for each room, so that it is still
//		there after a restart. One server uses a directory at a time.
//	-keep duration
//		With -history: delete a room in which nothing was said for this long. With -nats:
//		how long a stream that is made keeps what is said. The default is 720h, 30 days;
//		0 is for ever.
//	-nats url,...
//		Share all rooms with the other servers that have the same flag, over NATS with
//		JetStream, which keeps what is said. The URLs, nats://host:port or
//		tls://host:port, are nodes of one cluster.
//	-nats-replicas n
//		With -nats: how many nodes keep what is said, if the stream is made: 1, 3 or 5.
//	-nats-max-bytes n
//		With -nats: how many bytes they keep at most, if the stream is made. 0 is no limit.
//	-nats-creds file, -nats-ca file
//		With -nats: credentials, and certificates of authorities that may vouch for NATS.
//	-metrics host:port
//		The address on which to show metrics, at /metrics, as Prometheus reads them.
//	-version
//		Print what was built, and exit.
//
// At /healthz the server answers 200 and "ok" while it runs, with -nats 503 while NATS is out
// of reach. At /history it answers with what a room keeps, as JSON lines.
//
// An interrupt (Ctrl-C) or SIGTERM stops it: it delivers what was said, tells every client
// that it stops, and exits with status 0 within five seconds. A second one ends it at once.
// A usage error exits with status 2, any other error with status 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"chat/internal/access"
	"chat/internal/address"
	"chat/internal/metrics"
	"chat/internal/natslog"
)

const (
	// minRate is the smallest -rate in messages a second. A burst is a single message then.
	minRate = 0.1

	// maxRate is the largest -rate in messages a second. It is as good as no limit.
	maxRate = 1_000_000

	// maxMaxClients is the largest -max-clients. It is far beyond a machine's ports, and a
	// stop counts up to -max-clients.
	maxMaxClients = 1_000_000
)

func main() {
	addr := flag.String("addr", ":8080", "listen on `host:port`")
	origins := flag.String("origin", "", "let only pages of these `hosts` join: host or host:port, comma-separated")
	rate := flag.Float64("rate", 10, "messages a second one connection may send; 0 is no limit")
	maxClients := flag.Int("max-clients", 10_000, "connections there may be at a time")
	historyDir := flag.String("history", "", "keep what is said in files in this `directory`; empty for memory alone")
	keep := flag.Duration("keep", 720*time.Hour, "with -history or -nats: for which `duration` to keep what is said; 0 is for ever")
	natsURLs := flag.String("nats", "", "share rooms with other servers over NATS at these `URLs`, comma-separated")
	natsReplicas := flag.Int("nats-replicas", 1, "with -nats: nodes that keep what is said, if the stream is made")
	natsMaxBytes := flag.Int64("nats-max-bytes", 0, "with -nats: bytes they keep at most, if the stream is made; 0 is no limit")
	natsCreds := flag.String("nats-creds", "", "with -nats: a `file` with credentials")
	natsCA := flag.String("nats-ca", "", "with -nats: a `file` with certificates of authorities")
	metricsAddr := flag.String("metrics", "", "show metrics at /metrics on `host:port`; empty for nowhere")
	proxies := flag.String("proxy", "127.0.0.0/8,::1", "`addresses` of proxies whose X-Forwarded-For counts: IP or CIDR, comma-separated")
	version := flag.Bool("version", false, "print what was built, and exit")
	flag.Parse()

	if flag.NArg() > 0 {
		usageError("stray argument %q", flag.Arg(0))
	}
	if *version {
		fmt.Println(metrics.ReadBuild())
		return
	}
	checkAddr("-addr", *addr)
	if *metricsAddr != "" {
		checkAddr("-metrics", *metricsAddr)
	}
	hosts, err := access.ParseOrigins(*origins)
	if err != nil {
		usageError("-origin: %v", err)
	}
	proxyPrefixes, err := access.ParseProxies(*proxies)
	if err != nil {
		usageError("-proxy: %v", err)
	}
	if *rate != 0 && !(*rate >= minRate && *rate <= maxRate) { // not a number is neither
		usageError("-rate must be from %v to %v, or 0 for no limit", minRate, maxRate)
	}
	if *maxClients < 1 || *maxClients > maxMaxClients {
		usageError("-max-clients must be from 1 to %d", maxMaxClients)
	}
	urls, err := natslog.ParseURLs(*natsURLs)
	if err != nil {
		usageError("-nats: %v", err)
	}
	nats := natslog.Options{URLs: urls, Creds: *natsCreds, CA: *natsCA, Replicas: *natsReplicas, MaxBytes: *natsMaxBytes, Keep: *keep}
	checkKeeping(*historyDir, nats)

	setGCPercent()
	s := newServer(hosts, *rate, *maxClients)
	s.proxies = proxyPrefixes
	if *historyDir != "" {
		if err := s.openHistory(*historyDir, *keep); err != nil {
			log.Fatalf("-history: %v", err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that the second signal ends the process
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(address.Explain("-addr", *addr, err))
	}
	var metricsListener net.Listener
	if *metricsAddr != "" {
		if metricsListener, err = net.Listen("tcp", *metricsAddr); err != nil {
			log.Fatal(address.Explain("-metrics", *metricsAddr, err))
		}
		log.Printf("metrics at http://%s/metrics", metricsListener.Addr())
	}
	if urls != nil {
		if err := s.openStream(nats, l.Addr().String()); err != nil {
			log.Fatalf("-nats: %v", err)
		}
	}
	announce(l.Addr().(*net.TCPAddr))
	if err := s.serve(ctx, l, metricsListener); err != nil {
		log.Fatal(err)
	}
}

// setGCPercent lets the garbage collector run half as often, unless GOGC says how often.
func setGCPercent() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200) // most memory is goroutines' stacks, which are not garbage
	}
}

// isSet reports whether the command line has a flag.
func isSet(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// checkAddr ends the program unless a flag's value is an address to listen on.
func checkAddr(name, addr string) {
	if _, port, err := net.SplitHostPort(addr); err != nil {
		usageError("%s %q is not host:port", name, addr)
	} else if _, err := net.LookupPort("tcp", port); err != nil {
		usageError("%s %q: no such port", name, addr)
	}
}

// checkKeeping ends the program unless the flags that say where to keep what is said go
// together.
func checkKeeping(historyDir string, nats natslog.Options) {
	switch {
	case nats.Keep < 0:
		usageError("-keep must not be negative")
	case historyDir == "" && nats.URLs == nil && isSet("keep"):
		usageError("-keep needs -history or -nats")
	case historyDir != "" && nats.URLs != nil:
		usageError("-history and -nats exclude each other: with -nats, NATS keeps what is said")
	case nats.Replicas < 1 || nats.Replicas > 5:
		usageError("-nats-replicas must be from 1 to 5")
	case nats.MaxBytes < 0:
		usageError("-nats-max-bytes must not be negative")
	}
	for _, name := range []string{"nats-replicas", "nats-max-bytes", "nats-creds", "nats-ca"} {
		if nats.URLs == nil && isSet(name) {
			usageError("-%s needs -nats", name)
		}
	}
}

// usageError says what is wrong with the command line and exits with status 2.
func usageError(format string, args ...any) {
	fmt.Fprintf(flag.CommandLine.Output(), format+"\n", args...)
	flag.Usage()
	os.Exit(2)
}

// announce logs the URLs at which the chat can be opened: from other machines, if they can
// reach this one, and here.
func announce(addr *net.TCPAddr) {
	log.Printf("listening on %s", addr)
	others, here := address.URLs(addr, address.Outward)
	if others != "" {
		log.Printf("open %s from other machines (if it does not open there: same network? does the firewall here let port %d in?)", others, addr.Port)
	}
	log.Printf("open %s on this machine", here)
}
