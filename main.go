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
//		With -history: delete a room in which nothing was said for this long. The
//		default is 720h, 30 days; 0 keeps rooms for ever.
//	-metrics host:port
//		The address on which to show metrics, at /metrics in the Prometheus text format.
//		Without the flag there are none.
//	-version
//		Print what was built, and exit.
//
// At /healthz the server answers 200 and "ok" while it runs. At /history it answers with
// what a room keeps, as JSON lines.
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
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"chat/internal/address"
	"chat/internal/metrics"
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
	keep := flag.Duration("keep", 720*time.Hour, "with -history: delete a room that was silent for this `duration`; 0 is for ever")
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
	if *keep < 0 {
		usageError("-keep must not be negative")
	}
	if *historyDir == "" && isSet("keep") {
		usageError("-keep needs -history")
	}

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
	announce(l.Addr().(*net.TCPAddr))
	if err := s.serve(ctx, l, metricsListener); err != nil {
		log.Fatal(err)
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

// usageError says what is wrong with the command line and exits with status 2.
func usageError(format string, args ...any) {
	fmt.Fprintf(flag.CommandLine.Output(), format+"\n", args...)
	flag.Usage()
	os.Exit(2)
}

// parseOrigins returns the hosts of a comma-separated list, nil for an empty one.
func parseOrigins(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	hosts := strings.Split(list, ",")
	for i, host := range hosts {
		hosts[i] = strings.TrimSpace(host)
		u, err := url.Parse("http://" + hosts[i])
		if err != nil || u.Host != hosts[i] || u.Hostname() == "" {
			return nil, fmt.Errorf("%q is not a host or host:port", host)
		}
	}
	return hosts, nil
}

// parseProxies returns the addresses of a comma-separated list, nil for an empty one.
func parseProxies(list string) (prefixes []netip.Prefix, err error) {
	if list == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		prefix, err := netip.ParsePrefix(item)
		if addr, addrErr := netip.ParseAddr(item); addrErr == nil {
			prefix, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q is not an IP address or a CIDR prefix", item)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
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
