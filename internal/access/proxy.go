package access

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the peers whose X-Forwarded-For says where a request comes from.
type Proxies []netip.Prefix

// Loopback are the proxies on this machine.
var Loopback = Proxies{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// ParseProxies reads a comma-separated list of IP addresses and CIDR prefixes.
func ParseProxies(list string) (ps Proxies, err error) {
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
		ps = append(ps, prefix.Masked())
	}
	return ps, nil
}

// PeerOf returns the address that a request comes from, which its limits are for, and how to
// name it in the log. If the peer is a proxy, that is the last address of X-Forwarded-For,
// over all its header lines: the one that the proxy itself added. If that cannot be read, it
// is the peer's own.
func (ps Proxies) PeerOf(r *http.Request) (addr netip.Addr, name string) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, r.RemoteAddr
	}
	addr = peer.Addr().Unmap()
	lines := r.Header["X-Forwarded-For"]
	isProxy := slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(addr) })
	if !isProxy || len(lines) == 0 {
		return addr, r.RemoteAddr
	}
	last := lines[len(lines)-1]
	last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
	if forwarded, err := netip.ParseAddr(last); err == nil {
		addr = forwarded.Unmap()
	}
	return addr, fmt.Sprintf("%s for %.60q", r.RemoteAddr, last)
}
