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
//		With -nats: how many bytes of it they keep at most, if the stream is made. 0 is
//		no limit.
//	-nats-creds file
//		With -nats: a file with credentials for NATS.
//	-nats-ca file
//		With -nats: a file with certificates of authorities that may vouch for NATS.
//	-metrics host:port
//		The address on which to show metrics, at /metrics in the Prometheus text format.
//		Without the flag there are none.
//	-version
//		Print what was built, and exit.
//
// At /healthz the server answers 200 and "ok" while it runs, but with -nats 503 while it
// does not reach what is said there.
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
	"os/signal"
	"strconv"
	"syscall"
	"time"

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
	hosts, err := parseOrigins(*origins)
	if err != nil {
		usageError("-origin: %v", err)
	}
	proxyPrefixes, err := parseProxies(*proxies)
	if err != nil {
		usageError("-proxy: %v", err)
	}
	if *rate != 0 && !(*rate >= minRate && *rate <= maxRate) { // not a number is neither
		usageError("-rate must be from %v to %v, or 0 for no limit", minRate, maxRate)
	}
	if *maxClients < 1 || *maxClients > maxMaxClients {
		usageError("-max-clients must be from 1 to %d", maxMaxClients)
	}
	urls, err := parseNATS(*natsURLs)
	if err != nil {
		usageError("-nats: %v", err)
	}
	nats := natslog.Options{URLs: urls, Creds: *natsCreds, CA: *natsCA, Replicas: *natsReplicas, MaxBytes: *natsMaxBytes, Keep: *keep}
	checkKeeping(*historyDir, nats)

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
		log.Fatalf("%v (is another chat running? -addr :8081 takes another port)", err)
	}
	var metricsListener net.Listener
	if *metricsAddr != "" {
		if metricsListener, err = net.Listen("tcp", *metricsAddr); err != nil {
			log.Fatalf("-metrics: %v", err)
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

// announce logs the URLs at which the chat can be opened: from other machines, if they can
// reach this one, and here.
func announce(addr *net.TCPAddr) {
	log.Printf("listening on %s", addr)
	others, here := addresses(addr, outwardIP)
	if others != "" {
		log.Printf("open %s from other machines (if it does not open there: same network? does the firewall here let port %d in?)", others, addr.Port)
	}
	log.Printf("open %s on this machine", here)
}

// addresses returns the URLs at which other machines and this one can open a server that
// listens on addr; others is "" if they cannot. For a wildcard address, outward returns the
// address that others see, nil if there is none; its argument is "udp4" or "udp6".
func addresses(addr *net.TCPAddr, outward func(network string) net.IP) (others, here string) {
	page := func(host string) string {
		return "http://" + net.JoinHostPort(host, strconv.Itoa(addr.Port))
	}
	switch ip := addr.IP; {
	case ip.IsUnspecified():
		for _, network := range []string{"udp4", "udp6"} {
			if network == "udp6" && ip.To4() != nil {
				break // it listens on IPv4 alone
			}
			if ip := outward(network); ip != nil && ip.IsGlobalUnicast() { // neither loopback nor link-local
				others = page(ip.String())
				break
			}
		}
		return others, page("localhost")
	case ip.Equal(net.IPv4(127, 0, 0, 1)), ip.Equal(net.IPv6loopback):
		return "", page("localhost")
	case ip.IsLoopback():
		return "", page(ip.String())
	default:
		return page(addr.IP.String()), page(addr.IP.String())
	}
}

// outwardIP returns this machine's address on its default route, nil without one. It sends
// nothing: to connect a UDP socket only looks up the route. The addresses that it looks up
// are reserved for documentation (RFC 5737, RFC 3849).
func outwardIP(network string) net.IP {
	conn, err := net.Dial(network, map[string]string{"udp4": "192.0.2.1:9", "udp6": "[2001:db8::1]:9"}[network])
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP
}
