/* The load generator: all clients and all workers of a measurement, in one process.
 *
 * A broker can only be measured by something faster than itself. One thread of C plays a client
 * (DEALER) and several workers (DEALER to ask and be given jobs, PUSH to answer); it spends about as
 * much on a job as libzmq itself, so what limits the rate is what we measure.
 *
 * The driver is the only user. It writes one command on standard input and gets one line of JSON on
 * standard output when the command has been carried out. Between the two lines, and at no other time,
 * jobs move; so whatever the driver reads of the broker before it writes and after it reads (CPU,
 * memory) is read at exactly the ends of the counted part. Start-up jobs are simply an earlier command.
 *
 *     flow JOBS WINDOW                    JOBS jobs with WINDOW of them under way at any time (1: one at a
 *                                         time). When jobs are held, each job that arrives takes the place of
 *                                         a held one, picked at random, and that one is answered: the number
 *                                         running stays the same and answers come in random order. When jobs
 *                                         wait (fill), the flow goes past them: one in at the end, one out at the head.
 *     call JOBS WINDOW                    only the client of a flow, where CONNECTIONS is 0
 *     serve JOBS WINDOW                   only the workers of a flow
 *     fill JOBS                           submit JOBS jobs and let nobody ask for them
 *     hold JOBS WINDOW                    submit JOBS jobs, take them all, answer none
 *     drain WINDOW                        answer all held jobs, in random order
 *     expire JOBS SPREAD_MS TIMEOUT_MS    submit JOBS jobs over SPREAD_MS, let every one of them expire, and
 *                                         see how long after its deadline it arrives again; then answer all
 *     quit                                (or the end of input)
 *
 * Every job carries its number at both ends of its body. Every answer is checked: it must be the answer to
 * a job that is open, whole, and the only one. What is wrong is counted and reported as "errors".
 *
 * No ZeroMQ headers are needed: the few functions used are declared here and looked up in the libzmq that
 * pyzmq has brought along, so that broker, proxy and load all run on the same library.
 *
 * usage: load LIBZMQ broker CLIENTS WORKERS ANSWERS CONNECTIONS BODY_BYTES
 *        load LIBZMQ proxy  FRONT   BACK    -       CONNECTIONS BODY_BYTES
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- the part of libzmq that is used (its ABI has been stable since 4.0) ---- */

typedef struct { uint64_t opaque[8]; } message_t;                          /* zmq_msg_t: 64 bytes */
typedef struct { void *socket; int fd; short events; short revents; } pollitem_t;

enum { DEALER = 5, PUSH = 8 };
enum { LINGER = 17, SNDHWM = 23, RCVHWM = 24 };
enum { DONTWAIT = 1, SNDMORE = 2, POLLIN = 1 };

static void *(*zmq_ctx_new)(void);
static void *(*zmq_socket)(void *, int);
static int (*zmq_setsockopt)(void *, int, const void *, size_t);
static int (*zmq_connect)(void *, const char *);
static int (*zmq_poll)(pollitem_t *, int, long);
static int (*zmq_send)(void *, const void *, size_t, int);
static int (*zmq_msg_init)(message_t *);
static int (*zmq_msg_init_size)(message_t *, size_t);
static void *(*zmq_msg_data)(message_t *);
static size_t (*zmq_msg_size)(const message_t *);
static int (*zmq_msg_more)(const message_t *);
static int (*zmq_msg_send)(message_t *, void *, int);
static int (*zmq_msg_recv)(message_t *, void *, int);
static int (*zmq_msg_close)(message_t *);
static int (*zmq_errno)(void);
static const char *(*zmq_strerror)(int);

/* ---- bounds ---- */

enum { CONNECTIONS_MAX = 256 };     /* workers; zmq_poll looks at each of them */
enum { ID_BYTES_MAX = 39 };         /* a broker's job id; ours has 16; with its length and the number: 48 bytes a held job */
enum { BODY_BYTES_MIN = 16 };       /* the number of the job, twice */
static const long STALL_MS = 30000; /* no message for so long: something is broken, say so rather than wait for ever */
static const uint64_t TAIL = 0x9e3779b97f4a7c15ull; /* the second number is the first one XOR this */

/* ---- state ---- */

struct held { uint8_t id_bytes; uint8_t id[ID_BYTES_MAX]; uint64_t number; };

static int through_proxy;
static size_t body_bytes;
static int connections;
static void *client, *workers[CONNECTIONS_MAX], *answers[CONNECTIONS_MAX];
static pollitem_t items[CONNECTIONS_MAX + 1];

static uint64_t *submitted_at;      /* [number] ns; 0: answered */
static size_t submitted_room;
static uint64_t numbers;            /* jobs submitted since the start: the next job's number */

static struct held *held;           /* jobs taken and not answered */
static size_t held_jobs, held_room;

static struct {                     /* the command being carried out */
    const char *name;
    long jobs, window;
    long submitted, asked, received, answered;
    long wrong, twice, failed;      /* answers: not what was asked for; for a job that is not open; the empty frame */
    uint64_t *latency;              /* [answered] ns */
    uint64_t *first, *again;        /* expire: [job of this command] ns at which the attempt arrived */
    uint64_t first_number;          /* expire: the number of its first job */
} now;

/* ---- small pieces ---- */

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void must(int result, const char *what)
{
    if (result < 0)
        die("%s: %s", what, zmq_strerror(zmq_errno()));
}

static void *room_for(void *array, size_t *room, size_t wanted, size_t entry_bytes)
{
    if (wanted <= *room)
        return array;
    while (*room < wanted)
        *room = *room ? *room * 2 : 65536;
    if (!(array = realloc(array, *room * entry_bytes)))
        die("out of memory");
    return array;
}

static uint64_t random_below(uint64_t bound) /* xorshift; always the same sequence, so that runs can be compared */
{
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x % bound;
}

/* ---- bodies ---- */

static void make_body(message_t *body, uint64_t number)
{
    must(zmq_msg_init_size(body, body_bytes), "zmq_msg_init_size");
    char *data = zmq_msg_data(body);
    uint64_t tail = number ^ TAIL;
    memset(data + 8, 'x', body_bytes - 16);
    memcpy(data, &number, 8);
    memcpy(data + body_bytes - 8, &tail, 8);
}

static int read_body(message_t *body, uint64_t *number) /* whether it is whole */
{
    uint64_t tail;
    if (zmq_msg_size(body) != body_bytes)
        return 0;
    const char *data = zmq_msg_data(body);
    memcpy(number, data, 8);
    memcpy(&tail, data + body_bytes - 8, 8);
    return tail == (*number ^ TAIL) && *number < numbers;
}

/* ---- the client ---- */

static void submit(void)
{
    message_t body;
    make_body(&body, numbers);
    submitted_at = room_for(submitted_at, &submitted_room, numbers + 1, sizeof *submitted_at);
    submitted_at[numbers++] = clock_ns();
    must(zmq_send(client, "", 0, SNDMORE), "submit");
    must(zmq_msg_send(&body, client, 0), "submit");
    now.submitted++;
}

static int receive_frame(message_t *frame, void *socket, int flags) /* 0: nothing there */
{
    zmq_msg_init(frame);
    if (zmq_msg_recv(frame, socket, flags) >= 0)
        return 1;
    if (zmq_errno() != EAGAIN && zmq_errno() != EINTR)
        must(-1, "receive");
    zmq_msg_close(frame);
    return 0;
}

static long receive_answers(int submit_next)
{
    long seen = 0;
    message_t frame;
    while (receive_frame(&frame, client, DONTWAIT)) { /* the delimiter; then the body */
        uint64_t number, arrived = clock_ns();
        int frames = 1;
        while (zmq_msg_more(&frame)) {
            zmq_msg_close(&frame);
            receive_frame(&frame, client, 0);
            frames++;
        }
        if (frames == 2 && zmq_msg_size(&frame) == 0)
            now.failed++;
        else if (frames != 2 || !read_body(&frame, &number))
            now.wrong++;
        else if (!submitted_at[number])
            now.twice++;
        else {
            if (now.latency && now.answered < now.jobs)
                now.latency[now.answered] = arrived - submitted_at[number];
            submitted_at[number] = 0;
        }
        zmq_msg_close(&frame);
        now.answered++;
        seen++;
        if (submit_next && now.submitted < now.jobs)
            submit();
    }
    return seen;
}

/* ---- the workers ---- */

static void ask(int worker)
{
    must(zmq_send(workers[worker], "", 0, SNDMORE), "ask");
    must(zmq_send(workers[worker], "x", 1, 0), "ask");
    now.asked++;
}

static void ask_ahead(long asks) /* so many unspent asks in all, shared out among the workers */
{
    for (int worker = 0; now.asked - now.received < asks; worker = (worker + 1) % connections)
        ask(worker);
}

static void answer_held(int worker, const struct held *job)
{
    message_t body;
    make_body(&body, job->number);
    must(zmq_send(answers[worker], job->id, job->id_bytes, SNDMORE), "answer");
    must(zmq_msg_send(&body, answers[worker], 0), "answer");
}

static struct held keep(message_t *id, message_t *body) /* a copy: a received message pins libzmq's buffer */
{
    struct held job;
    if (zmq_msg_size(id) > ID_BYTES_MAX || !read_body(body, &job.number))
        die("a worker was given a job that nobody submitted (%s)", now.name);
    job.id_bytes = (uint8_t)zmq_msg_size(id);
    memcpy(job.id, zmq_msg_data(id), job.id_bytes);
    zmq_msg_close(id);
    zmq_msg_close(body);
    return job;
}

static void echo_through_proxy(int worker, message_t *frame) /* every frame goes back as it came */
{
    for (int more = 1; more;) {
        more = zmq_msg_more(frame);
        must(zmq_msg_send(frame, workers[worker], more ? SNDMORE : 0), "echo");
        if (more)
            receive_frame(frame, workers[worker], 0);
    }
}

static int receive_job(int worker, message_t *id, message_t *body) /* ["", id, body]; 0: nothing there */
{
    message_t delimiter;
    if (!receive_frame(&delimiter, workers[worker], DONTWAIT))
        return 0;
    if (through_proxy) {
        echo_through_proxy(worker, &delimiter);
        now.received++;
        return 1;
    }
    if (zmq_msg_size(&delimiter) != 0 || !zmq_msg_more(&delimiter))
        die("a worker was sent something that is not a job (%s)", now.name);
    receive_frame(id, workers[worker], 0);
    if (!zmq_msg_more(id))
        die("a worker was sent a job without a body (%s)", now.name);
    receive_frame(body, workers[worker], 0);
    if (zmq_msg_more(body))
        die("a worker was sent a job with more frames than were submitted (%s)", now.name);
    now.received++;
    zmq_msg_close(&delimiter);
    return 1;
}

static long serve_flow(void) /* as a worker does: take, answer, ask again */
{
    long seen = 0;
    message_t id, body;
    for (int worker = 0; worker < connections; worker++)
        while (receive_job(worker, &id, &body)) {
            seen++;
            if (through_proxy)
                continue;
            if (held_jobs) {
                struct held *place = &held[random_below(held_jobs)], other = *place;
                *place = keep(&id, &body);
                answer_held(worker, &other);
            } else {
                must(zmq_msg_send(&id, answers[worker], SNDMORE), "answer");
                must(zmq_msg_send(&body, answers[worker], 0), "answer");
            }
            if (now.asked < now.jobs)
                ask(worker);
        }
    return seen;
}

static long serve_hold(void)
{
    long seen = 0;
    message_t id, body;
    for (int worker = 0; worker < connections; worker++)
        while (receive_job(worker, &id, &body)) {
            seen++;
            held = room_for(held, &held_room, held_jobs + 1, sizeof *held);
            held[held_jobs++] = keep(&id, &body);
            if (now.asked < now.jobs)
                ask(worker);
        }
    return seen;
}

static long serve_expire(void) /* takes every job twice: the first time and again */
{
    long seen = 0;
    message_t id, body;
    for (int worker = 0; worker < connections; worker++)
        while (receive_job(worker, &id, &body)) {
            uint64_t arrived = clock_ns();
            struct held job = keep(&id, &body);
            uint64_t n = job.number - now.first_number;
            seen++;
            if (n >= (uint64_t)now.jobs)
                die("a job of an earlier command arrived again");
            if (!now.first[n])
                now.first[n] = arrived;
            else if (!now.again[n]) {
                now.again[n] = arrived;
                held = room_for(held, &held_room, held_jobs + 1, sizeof *held);
                held[held_jobs++] = job;
            } else
                now.twice++; /* expired for the second time: the broker was too slow by a whole timeout */
            ask(worker);
        }
    return seen;
}

/* ---- commands ---- */

static void wait_for_messages(long wait_ms)
{
    int ready = zmq_poll(items, connections + 1, wait_ms < STALL_MS ? wait_ms : STALL_MS);
    if (ready < 0 && zmq_errno() != EINTR)
        must(ready, "poll");
    if (ready == 0 && wait_ms >= STALL_MS)
        die("%s: nothing happened for %ld s: %ld submitted, %ld asked, %ld received, %ld answered of %ld",
            now.name, STALL_MS / 1000, now.submitted, now.asked, now.received, now.answered, now.jobs);
}

static void begin(const char *name, long jobs, long window)
{
    memset(&now, 0, sizeof now);
    now.name = name;
    now.jobs = jobs;
    now.window = window < jobs ? window : jobs;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_percentiles(const char *name, int64_t *values, long count) /* nearest rank, in ms */
{
    static const double ranks[] = {0.50, 0.90, 0.99, 0.999};
    qsort(values, (size_t)count, sizeof *values, compare);
    printf(", \"%s\": {\"min\": %.6f", name, values[0] / 1e6);
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        long rank = (long)(ranks[i] * (double)count + 0.999999);
        printf(", \"p%g\": %.6f", ranks[i] * 100, values[(rank < 1 ? 1 : rank) - 1] / 1e6);
    }
    printf(", \"max\": %.6f}", values[count - 1] / 1e6);
}

static void report(uint64_t started)
{
    printf("{\"command\": \"%s\", \"jobs\": %ld, \"seconds\": %.9f, \"answered\": %ld, \"held\": %zu, \"errors\": %ld",
           now.name, now.jobs, (double)(clock_ns() - started) / 1e9, now.answered, held_jobs,
           now.wrong + now.twice + now.failed);
    printf(", \"wrong\": %ld, \"twice\": %ld, \"failed\": %ld", now.wrong, now.twice, now.failed);
}

static void flow(long jobs, long window)
{
    begin("flow", jobs, window);
    now.latency = calloc((size_t)jobs, sizeof *now.latency);
    uint64_t started = clock_ns();
    if (!through_proxy)
        ask_ahead(now.window);
    while (now.submitted < now.window)
        submit();
    while (now.answered < jobs)
        if (serve_flow() + receive_answers(1) == 0)
            wait_for_messages(STALL_MS);
    report(started);
    print_percentiles("latency_ms", (int64_t *)now.latency, jobs);
    free(now.latency);
}

static void call(long jobs, long window) /* the client's part of a flow; another process serves */
{
    begin("call", jobs, window);
    now.latency = calloc((size_t)jobs, sizeof *now.latency);
    uint64_t started = clock_ns();
    while (now.submitted < now.window)
        submit();
    while (now.answered < jobs)
        if (receive_answers(1) == 0)
            wait_for_messages(STALL_MS);
    report(started);
    print_percentiles("latency_ms", (int64_t *)now.latency, jobs);
    free(now.latency);
}

static void serve(long jobs, long window) /* the workers' part of a flow; another process calls */
{
    begin("serve", jobs, window);
    uint64_t started = clock_ns();
    if (!through_proxy)
        ask_ahead(now.window);
    while (now.received < jobs)
        if (serve_flow() == 0)
            wait_for_messages(STALL_MS);
    report(started);
}

static void fill(long jobs)
{
    begin("fill", jobs, jobs);
    uint64_t started = clock_ns();
    while (now.submitted < jobs)
        submit();
    report(started);
}

static void hold(long jobs, long window)
{
    begin("hold", jobs, window);
    uint64_t started = clock_ns();
    ask_ahead(now.window);
    while (now.received < jobs) {
        while (now.submitted < jobs && now.submitted - now.received < now.window)
            submit();
        if (serve_hold() + receive_answers(0) == 0) /* an answer now can only be a failure: it is counted */
            wait_for_messages(STALL_MS);
    }
    report(started);
}

static void drain(long window)
{
    begin("drain", (long)held_jobs, window);
    uint64_t started = clock_ns();
    for (long answered = 0; now.answered < now.jobs;) {
        for (; held_jobs && answered - now.answered < now.window; answered++) {
            struct held *place = &held[random_below(held_jobs)];
            answer_held((int)(answered % connections), place);
            *place = held[--held_jobs];
        }
        if (receive_answers(0) == 0)
            wait_for_messages(STALL_MS);
    }
    report(started);
}

static void expire(long jobs, long spread_ms, long timeout_ms)
{
    begin("expire", jobs, jobs);
    now.first = calloc((size_t)jobs, sizeof *now.first);
    now.again = calloc((size_t)jobs, sizeof *now.again);
    uint64_t *submitted = calloc((size_t)jobs, sizeof *submitted);
    now.first_number = numbers;
    ask_ahead(jobs);
    uint64_t started = clock_ns(), spread = (uint64_t)spread_ms * 1000000, timeout = (uint64_t)timeout_ms * 1000000;
    while ((long)held_jobs < jobs) {
        uint64_t due = (uint64_t)jobs;
        if (spread_ms && clock_ns() - started < spread)
            due = (clock_ns() - started) * (uint64_t)jobs / spread;
        while ((uint64_t)now.submitted < due) {
            submit();
            submitted[now.submitted - 1] = submitted_at[numbers - 1];
        }
        if (serve_expire() + receive_answers(0) == 0)
            wait_for_messages(now.submitted < jobs ? 1 : STALL_MS);
    }
    uint64_t begun = clock_ns();
    for (; held_jobs; held_jobs--)
        answer_held((int)(held_jobs % (size_t)connections), &held[held_jobs - 1]);
    while (now.answered < jobs)
        if (receive_answers(0) == 0)
            wait_for_messages(STALL_MS);

    /* Lateness: from the deadline, counted from the first arrival, to the second arrival. The broker counts from
     * the hand-over, which lies between the submission and the first arrival: so only a job that arrives again
     * less than a timeout after its *submission* is proven to be early. */
    int64_t *late = calloc((size_t)jobs, sizeof *late);
    long early = 0;
    uint64_t first_from = now.first[0], first_to = now.first[0];
    for (long n = 0; n < jobs; n++) {
        late[n] = (int64_t)(now.again[n] - now.first[n] - timeout);
        early += now.again[n] < submitted[n] + timeout;
        first_from = now.first[n] < first_from ? now.first[n] : first_from;
        first_to = now.first[n] > first_to ? now.first[n] : first_to;
    }
    report(started);
    printf(", \"early\": %ld, \"dispatched_over_ms\": %.3f, \"answered_in_ms\": %.3f", early,
           (double)(first_to - first_from) / 1e6, (double)(clock_ns() - begun) / 1e6);
    print_percentiles("late_ms", late, jobs);
    free(late);
    free(submitted);
    free(now.first);
    free(now.again);
}

/* ---- start ---- */

static void load_library(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        die("cannot load libzmq: %s", dlerror());
#define LOOK_UP(name) \
    if (!(*(void **)&name = dlsym(library, #name))) \
        die("no %s in %s", #name, path)
    LOOK_UP(zmq_ctx_new);
    LOOK_UP(zmq_socket);
    LOOK_UP(zmq_setsockopt);
    LOOK_UP(zmq_connect);
    LOOK_UP(zmq_poll);
    LOOK_UP(zmq_send);
    LOOK_UP(zmq_msg_init);
    LOOK_UP(zmq_msg_init_size);
    LOOK_UP(zmq_msg_data);
    LOOK_UP(zmq_msg_size);
    LOOK_UP(zmq_msg_more);
    LOOK_UP(zmq_msg_send);
    LOOK_UP(zmq_msg_recv);
    LOOK_UP(zmq_msg_close);
    LOOK_UP(zmq_errno);
    LOOK_UP(zmq_strerror);
#undef LOOK_UP
}

static void *connected(void *context, int type, const char *endpoint)
{
    int none = 0; /* no high-water mark: a million jobs must fit; no linger: what is left over does not matter */
    void *socket = zmq_socket(context, type);
    if (!socket)
        must(-1, "socket");
    must(zmq_setsockopt(socket, SNDHWM, &none, sizeof none), "SNDHWM");
    must(zmq_setsockopt(socket, RCVHWM, &none, sizeof none), "RCVHWM");
    must(zmq_setsockopt(socket, LINGER, &none, sizeof none), "LINGER");
    must(zmq_connect(socket, endpoint), endpoint);
    return socket;
}

static int obey(const char *line) /* 0: the end */
{
    char name[16] = "";
    long a = 0, b = 0, c = 0;
    int words = sscanf(line, "%15s %ld %ld %ld", name, &a, &b, &c);
    if (words == 1 && !strcmp(name, "quit"))
        return 0;
    if (words == 3 && !strcmp(name, "flow") && a > 0 && b > 0)
        flow(a, b);
    else if (words == 3 && !strcmp(name, "call") && a > 0 && b > 0)
        call(a, b);
    else if (words == 3 && !strcmp(name, "serve") && a > 0 && b > 0)
        serve(a, b);
    else if (words == 2 && !strcmp(name, "fill") && a > 0 && !through_proxy)
        fill(a);
    else if (words == 3 && !strcmp(name, "hold") && a > 0 && b > 0 && !through_proxy)
        hold(a, b);
    else if (words == 2 && !strcmp(name, "drain") && a > 0 && held_jobs)
        drain(a);
    else if (words == 4 && !strcmp(name, "expire") && a > 0 && b >= 0 && c > 0 && !through_proxy && !held_jobs)
        expire(a, b, c);
    else
        die("what is `%s`?", line);
    printf("}\n");
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 8)
        die("usage: load LIBZMQ broker|proxy CLIENTS WORKERS ANSWERS|- CONNECTIONS BODY_BYTES");
    load_library(argv[1]);
    through_proxy = !strcmp(argv[2], "proxy");
    connections = atoi(argv[6]);
    body_bytes = (size_t)atol(argv[7]);
    if (connections < 0 || connections > CONNECTIONS_MAX || body_bytes < BODY_BYTES_MIN)
        die("CONNECTIONS must be 0..%d, BODY_BYTES at least %d", CONNECTIONS_MAX, BODY_BYTES_MIN);

    void *context = zmq_ctx_new();
    client = connected(context, DEALER, argv[3]);
    items[0] = (pollitem_t){client, 0, POLLIN, 0};
    for (int n = 0; n < connections; n++) {
        workers[n] = connected(context, DEALER, argv[4]);
        items[n + 1] = (pollitem_t){workers[n], 0, POLLIN, 0};
        if (!through_proxy)
            answers[n] = connected(context, PUSH, argv[5]);
    }
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!obey(line))
            break;
    }
    _Exit(0); /* the sockets die with the process: closing a million queued messages would take its time */
}
