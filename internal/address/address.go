// Package address knows at which URLs a server that listens on an address can be opened.
package address

import (
	"net"
	"strconv"
)

// URLs returns the URLs at which other machines and this one can open a server that
// listens on addr; others is "" if they cannot. For a wildcard address, outward returns the
// address that others see, nil if there is none; its argument is "udp4" or "udp6".
func URLs(addr *net.TCPAddr, outward func(network string) net.IP) (others, here string) {
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

// Outward returns this machine's address on its default route, nil without one. It sends
// nothing: to connect a UDP socket only looks up the route. The addresses that it looks up
// are reserved for documentation (RFC 5737, RFC 3849).
func Outward(network string) net.IP {
	conn, err := net.Dial(network, map[string]string{"udp4": "192.0.2.1:9", "udp6": "[2001:db8::1]:9"}[network])
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP
}
