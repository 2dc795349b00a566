// The Go library pyproc's pool, with one worker of its own and one connection, called as its README shows.
//
// Usage: original SOCKET GOROUTINES SECONDS PYTHON SCRIPT CHECKOUT; writes what ../client.h says.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/YuminosukeSato/pyproc/pkg/pyproc"
)

const timesMax = 1 << 20

type request struct {
	Value float64 `json:"value"`
}

type reply struct {
	Result float64 `json:"result"`
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "original:", err)
		os.Exit(1)
	}
}

func open(socket, python, script, checkout string) *pyproc.Pool {
	check(os.Setenv("PYTHONPATH", filepath.Join(checkout, "worker", "python")))
	options := pyproc.PoolOptions{
		Config: pyproc.PoolConfig{Workers: 1, MaxInFlight: 1},
		WorkerConfig: pyproc.WorkerConfig{
			PythonExec: python, WorkerScript: script, SocketPath: socket, StartTimeout: time.Minute,
		},
	}
	pool, err := pyproc.NewPool(options, pyproc.NewLogger(pyproc.LoggingConfig{Level: "error", Format: "text"}))
	check(err)
	check(pool.Start(context.Background()))
	return pool
}

// A closed loop.
func loop(pool *pyproc.Pool, seconds float64) []int64 {
	var times []int64
	before := time.Now()
	end := before.Add(time.Duration(seconds * 1e9))
	for value := 0.0; before.Before(end); value++ {
		var answer reply
		check(pool.Call(context.Background(), "predict", request{value}, &answer))
		if answer.Result != 2*value {
			check(fmt.Errorf("wrong answer: %v", answer))
		}
		now := time.Now()
		times = append(times, int64(now.Sub(before)))
		before = now
	}
	return times
}

func cpu() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func run(pool *pyproc.Pool, goroutines int, seconds float64) [][]int64 {
	times := make([][]int64, goroutines)
	var all sync.WaitGroup
	for i := range goroutines {
		all.Add(1)
		go func() {
			defer all.Done()
			times[i] = loop(pool, seconds)
		}()
	}
	all.Wait()
	return times
}

func write(times [][]int64, took, used float64) {
	calls, least, most := 0, len(times[0]), 0
	for _, one := range times {
		calls += len(one)
		least = min(least, len(one))
		most = max(most, len(one))
	}
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(out, "%d %.9f %.9f %.3f\n", calls, took, used, float64(least)/float64(most))
	for _, one := range times {
		check(binary.Write(out, binary.NativeEndian, one[:min(len(one), timesMax/len(times))]))
	}
	check(out.Flush())
}

func main() {
	if len(os.Args) != 7 {
		os.Exit(2)
	}
	goroutines, err := strconv.Atoi(os.Args[2])
	check(err)
	seconds, err := strconv.ParseFloat(os.Args[3], 64)
	check(err)
	pool := open(os.Args[1], os.Args[4], os.Args[5], os.Args[6])
	run(pool, goroutines, seconds/5)
	began, used := time.Now(), cpu()
	times := run(pool, goroutines, seconds)
	write(times, time.Since(began).Seconds(), cpu()-used)
	check(pool.Shutdown(context.Background()))
}
