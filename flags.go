package main

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"chat/internal/natslog"
)

// How flags are read that are more than a number.

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

// parseNATS returns the URLs of a comma-separated list, nil for an empty one.
func parseNATS(list string) (urls []string, err error) {
	if list == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		u, err := url.Parse(item)
		if err != nil || u.Hostname() == "" || u.Scheme != "nats" && u.Scheme != "tls" {
			return nil, fmt.Errorf("%q is not nats://host:port or tls://host:port", item)
		}
		urls = append(urls, item)
	}
	return urls, nil
}
