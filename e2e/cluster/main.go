// Cluster runs a cluster of three NATS nodes and three servers of the chat that share their
// rooms over it, all on this machine, and prints their addresses.
//
// Usage:
//
//	go run ./cluster [flags]
//
// The flags are:
//
//	-port n
//		The port of the first server; the others have the next ones. Without it, 8081.
//
// What the servers log goes to standard error, each line with the server's number. To see
// what a failure does, kill a process by the number that is printed: kill -9 NUMBER, or
// kill -STOP NUMBER and kill -CONT NUMBER. An interrupt (Ctrl-C) ends everything; what the
// nodes stored goes with it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"chat/e2e/engine"
)

const servers = 3

func main() {
	log.SetFlags(0)
	log.SetPrefix("cluster: ")
	port := flag.Int("port", 8081, "the `port` of the first server")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *port); err != nil {
		log.Fatal(err)
	}
}

// run runs everything until ctx ends.
func run(ctx context.Context, port int) error {
	dir, err := os.MkdirTemp("", "chat-cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	chat := filepath.Join(dir, "chat")
	build := exec.CommandContext(ctx, "go", "build", "-o", chat, ".")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the chat: %w\n%s", err, out)
	}
	program, err := engine.Build(dir)
	if err != nil {
		return err
	}
	nodes, err := engine.Start(program, dir, servers)
	if err != nil {
		return err
	}
	defer nodes.Close()
	for _, n := range nodes.Nodes {
		fmt.Printf("node %s    %s  (process %d)\n", n.Name, n.URL(), n.Pid())
	}

	var running sync.WaitGroup
	for i := range servers {
		addr := fmt.Sprint("127.0.0.1:", port+i)
		cmd := exec.CommandContext(ctx, chat, "-addr", addr, "-nats", nodes.URLs(), "-nats-replicas", fmt.Sprint(servers))
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.SysProcAttr = engine.Child()
		out, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return err
		}
		fmt.Printf("server %d   http://%s/  (process %d)\n", i+1, addr, cmd.Process.Pid)
		running.Go(func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				fmt.Fprintf(os.Stderr, "server %d: %s\n", i+1, lines.Text())
			}
			if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
				log.Printf("server %d: %v", i+1, err)
			}
		})
	}
	fmt.Println("Open a page on each, and write: they are one chat. Ctrl-C ends all.")
	running.Wait()
	return nil
}
