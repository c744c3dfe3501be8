// Google's fake Pub/Sub as a process. It prints its address; each line on standard input is answered with the JSON of
// all messages ever published (pstest.Message); it ends when standard input closes, so it never outlives a test.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"cloud.google.com/go/pubsub/v2/pstest"
)

func main() {
	closeAfter := flag.Duration("stream-close-after", 0, "end each StreamingPull at this age")
	flag.Parse()
	server := pstest.NewServerWithAddress("127.0.0.1:0")
	defer server.Close()
	server.SetStreamTimeout(*closeAfter)
	fmt.Println(server.Addr)
	answers := json.NewEncoder(os.Stdout)
	for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
		if err := answers.Encode(server.Messages()); err != nil {
			return
		}
	}
}
