/* What peer.py does, in a static binary that no library could be preloaded into. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const struct option { const char *name; int level, number; } options[] = {
	{ "keepalive", SOL_SOCKET, SO_KEEPALIVE },
	{ "idle", IPPROTO_TCP, TCP_KEEPIDLE },
	{ "interval", IPPROTO_TCP, TCP_KEEPINTVL },
	{ "probes", IPPROTO_TCP, TCP_KEEPCNT },
};
static struct { int option, value; } wishes[8];
static int wished, at = -1;

static int number(const char *name)
{
	for (int i = 0; i < 4; i++)
		if (!strcmp(options[i].name, name))
			return i;
	exit(2);
}

static int set(int fd, int option, int value)
{
	return setsockopt(fd, options[option].level, options[option].number, &value, sizeof(value));
}

static int get(int fd, int option)
{
	int value = -1;
	socklen_t length = sizeof(value);

	getsockopt(fd, options[option].level, options[option].number, &value, &length);
	return value;
}

static socklen_t address(const char *host, int port, struct sockaddr_storage *to)
{
	memset(to, 0, sizeof(*to));
	if (strchr(host, ':')) {
		struct sockaddr_in6 *six = (void *)to;
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		inet_pton(AF_INET6, host, &six->sin6_addr);
		return sizeof(*six);
	}
	struct sockaddr_in *four = (void *)to;
	four->sin_family = AF_INET;
	four->sin_port = htons(port);
	inet_pton(AF_INET, host, &four->sin_addr);
	return sizeof(*four);
}

static int dial(const char *host, int port)
{
	struct sockaddr_storage to;
	socklen_t length = address(host, port, &to);
	int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	for (int i = 0; i < wished; i++)
		set(fd, wishes[i].option, wishes[i].value);
	if (!connect(fd, (void *)&to, length))
		return fd;
	int error = errno;
	close(fd);
	errno = error;
	return -1;
}

static int answer(char *line)
{
	char name[64], host[64];
	int value, port, seconds;

	if (sscanf(line, "wish %63s %d", name, &value) == 2) {
		wishes[wished].option = number(name);
		wishes[wished++].value = value;
		return 0;
	}
	if (sscanf(line, "connect %63s %d", host, &port) == 2)
		return (at = dial(host, port)) < 0 ? -1 : 0;
	if (sscanf(line, "set %63s %d", name, &value) == 2)
		return set(at, number(name), value);
	if (sscanf(line, "big %d", &value) == 1) {
		char *bytes = calloc(1, value);
		strcpy(bytes, "reno");
		int result = setsockopt(at, IPPROTO_TCP, TCP_CONGESTION, bytes, value);
		free(bytes);
		return result;
	}
	if (!strncmp(line, "get", 3)) {
		printf("%d %d %d %d\n", get(at, 0), get(at, 1), get(at, 2), get(at, 3));
		return 1;
	}
	if (!strncmp(line, "peer", 4)) {
		struct sockaddr_storage peer;
		socklen_t length = sizeof(peer);
		struct sockaddr_in *four = (void *)&peer;
		struct sockaddr_in6 *six = (void *)&peer;
		if (getpeername(at, (void *)&peer, &length))
			return -1;
		int is_four = peer.ss_family == AF_INET;
		inet_ntop(peer.ss_family, is_four ? (void *)&four->sin_addr : (void *)&six->sin6_addr,
			  host, sizeof(host));
		printf("%s %d\n", host, ntohs(is_four ? four->sin_port : six->sin6_port));
		return 1;
	}
	if (!strncmp(line, "receive", 7)) {
		char text[200] = "";
		ssize_t length = read(at, text, sizeof(text) - 1);
		if (length < 0)
			return -1;
		text[strcspn(text, "\n")] = 0;
		puts(text);
		return 1;
	}
	if (sscanf(line, "load %63s %d %d", host, &port, &seconds) == 3) {
		int failed = 0, without = 0, total = 0;
		for (time_t end = time(NULL) + seconds; time(NULL) < end; total++) {
			struct linger reset = { 1, 0 };
			int fd = dial(host, port);
			if (fd < 0) {
				failed++;
				continue;
			}
			without += !get(fd, 0);
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
			close(fd);
		}
		printf("%d %d %d\n", failed, without, total);
		return 1;
	}
	printf("what is %s?\n", strtok(line, "\n"));
	return 1;
}

int main(void)
{
	char line[256];

	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int result = answer(line);
		if (result == 0)
			puts("ok");
		else if (result < 0)
			puts(strerrorname_np(errno));
		fflush(stdout);
	}
	return 0;
}
