/* The load generator: all clients and all workers of a measurement, in one process.
 *
 * A broker can only be measured by something faster than itself. One thread of C plays a client
 * (DEALER) and several workers (DEALER to ask and be given jobs; in the 2010 dialect PUSH to answer);
 * it spends about as much on a job as libzmq itself, so what limits the rate is what we measure.
 *
 * In either dialect the same connections carry the same jobs, and as many asks are unspent: a 2010 worker
 * sends an ask after each answer; a native one says in its answer how many jobs it may have been given
 * (docs/protocol.md). A native worker starts a job when it takes it, and says so in its answer; it says
 * heartbeat when it has been silent for a while, also between commands.
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
 *     policy ...                          what is said of each job from now on: terms.h
 *     delay ..., due ..., tenant ...      how long jobs wait for their moment, and beside others: waits.h
 *     quit                                (or the end of input)
 *
 * Every job carries its number at both ends of its body. Every answer is checked: it must be the answer to
 * a job that is open, whole, and the only one. What is wrong is counted and reported as "errors". What a native
 * broker refuses, and an outcome that is not an answer, end the load at once, with the broker's own text.
 *
 * No ZeroMQ headers are needed: the few functions used are declared here and looked up in the libzmq that
 * pyzmq has brought along, so that broker, proxy and load all run on the same library.
 *
 * usage: load LIBZMQ 2010   CLIENTS WORKERS ANSWERS CONNECTIONS BODY_BYTES
 *        load LIBZMQ native CLIENTS WORKERS -       CONNECTIONS BODY_BYTES [QUEUES EACH]
 *        load LIBZMQ proxy  FRONT   BACK    -       CONNECTIONS BODY_BYTES
 *
 * With QUEUES the workers share so many queues (q0, q1 ...) out among themselves, each serves EACH of them: worker 0 the
 * first EACH, and so on, from the beginning again after the last. Which worker takes a job is then decided by its queue,
 * so a worker keeps its share of the asks all the time, also at the end of a flow.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "messagepack.h"

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
static int (*zmq_msg_move)(message_t *, message_t *);
static int (*zmq_msg_close)(message_t *);
static int (*zmq_errno)(void);
static const char *(*zmq_strerror)(int);

/* ---- bounds ---- */

enum { CONNECTIONS_MAX = 256 };     /* workers; zmq_poll looks at each of them */
enum { ID_BYTES_MAX = 38 };         /* a broker's job id or token; ours have 16; a held job has 48 bytes in all */
enum { QUEUES_EACH_MAX = 100 };     /* that one worker serves: no broker allows more */
enum { BODY_BYTES_MIN = 16 };       /* the number of the job, twice */
static const long STALL_MS = 30000; /* no job moves for so long: something is broken, say so rather than wait for ever */
static const long LOOK_EVERY_MS = 500; /* while waiting: whether a heartbeat is due, whether anything moves */
static const long WELCOME_MS = 10000; /* a broker that speaks natively has answered a hello long before */
enum { RECEIPT_EVERY = 1000 };      /* outcomes; a client that has nothing else to say tells that it has so many */
static const uint64_t TAIL = 0x9e3779b97f4a7c15ull; /* the second number is the first one XOR this */

/* ---- state ---- */

struct right { uint8_t worker, id_bytes, id[ID_BYTES_MAX]; };     /* to answer a job: its id, or its token */
struct held { struct right right; uint64_t number; };

static enum { PROXY, D2010, NATIVE } dialect;
static size_t body_bytes;
static int connections;
static long served_queues, queues_each; /* 0: workers serve what is served when nothing is said */
static void *client, *workers[CONNECTIONS_MAX], *answers[CONNECTIONS_MAX];
static pollitem_t items[CONNECTIONS_MAX + 2]; /* the client, the workers, standard input */

static uint64_t *submitted_at;      /* [number] ns; 0: answered */
static size_t submitted_room;
static uint64_t numbers;            /* jobs submitted since the start: the next job's number */

static struct held *held;           /* jobs taken and not answered */
static size_t held_jobs, held_room;

static struct session {             /* native: what is counted on one connection */
    uint64_t credit, handed, started; /* a worker's; hand-overs */
    uint64_t reports, safe;         /* a worker's; reports made, and acknowledged */
    uint64_t received, receipted;   /* the client's; outcomes heard, and said to be */
    uint64_t said_at;               /* ns; when we last said anything */
    uint64_t heartbeat_ns;          /* 0: there was no welcome yet */
} client_session, sessions[CONNECTIONS_MAX];

static uint8_t run_id[8];           /* random; the second half of each request id */

static struct {                     /* the command being carried out */
    const char *name;
    long jobs, window;
    long submitted, asked, received, answered;
    long wrong, twice, failed;      /* answers: not what was asked for; for a job that is not open; the empty frame */
    uint64_t *latency;              /* [answered] ns */
    long acks;                      /* native: messages that were nothing but an acknowledgement */
    long accepted;                  /* native: jobs of whose acceptance we wanted to hear, and heard */
    uint64_t *first, *again;        /* expire: [job of this command] ns at which the attempt arrived */
    uint64_t first_number;          /* expire: the number of its first job */
    long moves;                     /* messages of jobs, when we last had to wait ... */
    uint64_t moved_at;              /* ... and when there were fewer; ns */
} now;

/* ---- small pieces ---- */

static uint64_t last_clock_ns; /* what the clock last said: good enough to tell silence from speech */

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return last_clock_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
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

/* ---- the native dialect: what either side says and hears ---- */

static const uint8_t SIGNATURE[8] = {0xff, 'r', 'e', 'l', 'e', 't', '/', 1};

enum key { T, ID, N, STATE, REASON, KIND, TEXT_OF, CODE, JOBS, TOKEN, SEQ, ACK, HEARTBEAT_MS, HANDED, RECEIVED, KEYS };
static const char *const KEY_NAMES[KEYS] = {"t", "id", "n", "state", "reason", "kind", "text", "code", "jobs", "token",
                                            "seq", "ack", "heartbeat_ms", "handed", "received"};

struct heard { message_t header, body; int body_frames; struct value is[KEYS]; };

static void begin_saying(struct written *header, const char *name)
{
    begin_map(header);
    write_text_pair(header, "t", name);
}

static void say(void *socket, struct session *session, const struct written *header, message_t *body)
{
    must(zmq_send(socket, SIGNATURE, sizeof SIGNATURE, SNDMORE), "say");
    must(zmq_send(socket, header->bytes, header->size, body ? SNDMORE : 0), "say");
    if (body)
        must(zmq_msg_send(body, socket, 0), "say");
    session->said_at = last_clock_ns;
}

static const char *text_of(const struct value *value) /* good until the fourth call from now */
{
    static char texts[4][512];
    static int turn;
    char *text = texts[turn++ % 4];
    snprintf(text, sizeof texts[0], "%.*s", value->kind == TEXT ? (int)value->size : 0, (const char *)value->data);
    return text;
}

static uint64_t int_of(const struct heard *heard, enum key key) /* those that are left out are 0 */
{
    if (heard->is[key].kind != INTEGER && heard->is[key].kind != ABSENT)
        die("the broker's `%s` has a `%s` that is no int", text_of(&heard->is[T]), KEY_NAMES[key]);
    return heard->is[key].number;
}

static const uint8_t *end_of(message_t *frame)
{
    return (const uint8_t *)zmq_msg_data(frame) + zmq_msg_size(frame);
}

static int hear(void *socket, struct heard *heard) /* 0: nothing there; else: `forget` it */
{
    message_t signature, more;
    struct value map;
    if (!receive_frame(&signature, socket, DONTWAIT))
        return 0;
    if (zmq_msg_size(&signature) != sizeof SIGNATURE || !zmq_msg_more(&signature) ||
        memcmp(zmq_msg_data(&signature), SIGNATURE, sizeof SIGNATURE))
        die("heard something that is no message of the native dialect (%s)", now.name);
    zmq_msg_close(&signature);
    receive_frame(&heard->header, socket, 0);
    const uint8_t *header = zmq_msg_data(&heard->header), *end = end_of(&heard->header);
    if (read_value(header, end, &map, 0) != end || map.kind != MAP)
        die("heard a header that is no MessagePack map (%s)", now.name);
    find_keys(&map, end, KEY_NAMES, KEYS, heard->is);
    heard->body_frames = 0;
    zmq_msg_init(&heard->body);
    if (zmq_msg_more(&heard->header)) {
        receive_frame(&heard->body, socket, 0);
        heard->body_frames = 1;
        for (int left = zmq_msg_more(&heard->body); left; heard->body_frames++) {
            receive_frame(&more, socket, 0);
            left = zmq_msg_more(&more);
            zmq_msg_close(&more);
        }
    }
    return 1;
}

static void forget(struct heard *heard)
{
    zmq_msg_close(&heard->header);
    zmq_msg_close(&heard->body);
}

/* What a broker may say to either; whatever is left is something that a flow of jobs gives no reason for. */
static void hear_common(const struct heard *heard, struct session *session, const char *who)
{
    const struct value *said = heard->is;
    if (is_text(&said[T], "welcome")) {
        if (int_of(heard, HANDED) || int_of(heard, RECEIVED) || !int_of(heard, HEARTBEAT_MS))
            die("%s was welcomed to a session that is not new, or without heartbeat_ms", who);
        session->heartbeat_ns = said[HEARTBEAT_MS].number * 1000000;
    } else if (!is_text(&said[T], "heartbeat"))
        die("%s: the broker says %s: %s: %s (%s)", who, text_of(&said[T]), text_of(&said[CODE]),
            text_of(&said[TEXT_OF]), now.name);
}

static void say_numbers(int worker, const char *name) /* nothing but the numbers that a worker counts */
{
    struct written header;
    begin_saying(&header, name);
    write_int_pair(&header, "credit", sessions[worker].credit);
    write_int_pair(&header, "started", sessions[worker].started);
    say(workers[worker], &sessions[worker], &header, NULL);
}

static void say_receipt(void)
{
    struct written header;
    begin_saying(&header, "heartbeat");
    write_int_pair(&header, "received", client_session.received);
    client_session.receipted = client_session.received;
    say(client, &client_session, &header, NULL);
}

static void keep_alive(void) /* workers that have been silent for a while say so */
{
    if (dialect != NATIVE)
        return;
    for (int worker = 0; worker < connections; worker++)
        if (last_clock_ns - sessions[worker].said_at > sessions[worker].heartbeat_ns)
            say_numbers(worker, "heartbeat");
}

/* ---- the client ---- */

#include "terms.h"

static void submit_natively(message_t *body, uint64_t number)
{
    struct written header;
    uint8_t id[16];
    memcpy(id, &number, 8);
    memcpy(id + 8, run_id, 8);
    begin_saying(&header, "submit");
    write_bin_pair(&header, "id", id, sizeof id);
    write_int_pair(&header, "received", client_session.received);
    client_session.receipted = client_session.received;
    write_terms(&header);
    say(client, &client_session, &header, body);
}

static void submit(void)
{
    message_t body;
    make_body(&body, numbers);
    submitted_at = room_for(submitted_at, &submitted_room, numbers + 1, sizeof *submitted_at);
    submitted_at[numbers] = clock_ns();
    if (dialect == NATIVE)
        submit_natively(&body, numbers);
    else {
        must(zmq_send(client, "", 0, SNDMORE), "submit");
        must(zmq_msg_send(&body, client, 0), "submit");
    }
    numbers++;
    now.submitted++;
}

static void take_answer(message_t *body, uint64_t arrived, uint64_t number_asked) /* UINT64_MAX: the answer alone says */
{
    uint64_t number;
    if (!read_body(body, &number) || (number_asked != UINT64_MAX && number != number_asked))
        now.wrong++;
    else if (!submitted_at[number])
        now.twice++;
    else {
        if (now.latency && now.answered < now.jobs)
            now.latency[now.answered] = arrived - submitted_at[number];
        submitted_at[number] = 0;
    }
}

static void take_outcome(struct heard *heard, uint64_t arrived)
{
    const struct value *said = heard->is;
    uint64_t number;
    if (said[STATE].kind != ABSENT && !is_text(&said[STATE], "completed"))
        die("a job was not completed but %s (%s): %s: %s", text_of(&said[STATE]), text_of(&said[REASON]),
            text_of(&said[KIND]), text_of(&said[TEXT_OF]));
    if (said[ID].kind != BIN || said[ID].size != 16 || memcmp(said[ID].data + 8, run_id, 8))
        die("an outcome has an id that was not asked for (%s)", now.name);
    if (int_of(heard, N) != ++client_session.received)
        die("an outcome is number %llu of this session, not %llu", (unsigned long long)int_of(heard, N),
            (unsigned long long)client_session.received);
    memcpy(&number, said[ID].data, 8);
    if (heard->body_frames != 1)
        now.wrong++;
    else
        take_answer(&heard->body, arrived, number);
}

static void hear_submitted(const struct heard *heard) /* that a job was accepted, or why it was not */
{
    struct value job, found[KEYS];
    const uint8_t *end = end_of((message_t *)&heard->header);
    read_value(heard->is[JOBS].data, end, &job, 0);
    find_keys(&job, end, KEY_NAMES, KEYS, found);
    if (!found[CODE].size)
        now.accepted++;
    else
        die("a job was refused: %s: %s (%s)", text_of(&found[CODE]), text_of(&found[TEXT_OF]), now.name);
}

static long hear_outcomes(int submit_next)
{
    long seen = 0;
    struct heard heard;
    for (; hear(client, &heard); seen++) {
        if (is_text(&heard.is[T], "outcome")) {
            take_outcome(&heard, clock_ns());
            now.answered++;
            if (submit_next && now.submitted < now.jobs)
                submit();
            else if (client_session.received - client_session.receipted >= RECEIPT_EVERY)
                say_receipt();
        } else if (is_text(&heard.is[T], "submitted") && heard.is[JOBS].kind == LIST && heard.is[JOBS].size)
            hear_submitted(&heard);
        else
            hear_common(&heard, &client_session, "the client");
        forget(&heard);
    }
    return seen;
}

static long receive_answers(int submit_next)
{
    if (dialect == NATIVE)
        return hear_outcomes(submit_next);
    long seen = 0;
    message_t frame;
    while (receive_frame(&frame, client, DONTWAIT)) { /* the delimiter; then the body */
        uint64_t arrived = clock_ns();
        int frames = 1;
        while (zmq_msg_more(&frame)) {
            zmq_msg_close(&frame);
            receive_frame(&frame, client, 0);
            frames++;
        }
        if (frames == 2 && zmq_msg_size(&frame) == 0)
            now.failed++;
        else if (frames != 2)
            now.wrong++;
        else
            take_answer(&frame, arrived, UINT64_MAX);
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
    now.asked++;
    if (dialect == NATIVE) {
        sessions[worker].credit++; /* said with the next message */
        return;
    }
    must(zmq_send(workers[worker], "", 0, SNDMORE), "ask");
    must(zmq_send(workers[worker], "x", 1, 0), "ask");
}

static void say_asks(void) /* natively one message for all asks of a worker */
{
    for (int worker = 0; dialect == NATIVE && worker < connections; worker++)
        say_numbers(worker, "ask");
}

static void ask_ahead(long asks) /* so many unspent asks in all, shared out among the workers */
{
    for (int worker = 0; served_queues && worker < connections; worker++)
        while ((long)(sessions[worker].credit - sessions[worker].handed) * connections < asks)
            ask(worker);
    for (int worker = 0; !served_queues && now.asked - now.received < asks; worker = (worker + 1) % connections)
        ask(worker);
    say_asks();
}

static void answer(const struct right *right, message_t *body)
{
    struct written header;
    struct session *session = &sessions[right->worker];
    if (dialect == D2010) {
        must(zmq_send(answers[right->worker], right->id, right->id_bytes, SNDMORE), "answer");
        must(zmq_msg_send(body, answers[right->worker], 0), "answer");
        return;
    }
    begin_saying(&header, "complete");
    write_bin_pair(&header, "token", right->id, right->id_bytes);
    write_int_pair(&header, "n", ++session->reports);
    write_int_pair(&header, "credit", session->credit);
    write_int_pair(&header, "started", session->started);
    say(workers[right->worker], session, &header, body);
}

static void answer_held(const struct held *job)
{
    message_t body;
    make_body(&body, job->number);
    answer(&job->right, &body);
}

static struct held keep(const struct right *right, message_t *body) /* a copy: a received message pins libzmq's buffer */
{
    struct held job = {*right, 0};
    if (!read_body(body, &job.number))
        die("a worker was given a job that nobody submitted (%s)", now.name);
    zmq_msg_close(body);
    return job;
}

static struct right right_to(int worker, const void *id, size_t id_bytes)
{
    struct right right = {(uint8_t)worker, (uint8_t)id_bytes, {0}};
    if (id_bytes > ID_BYTES_MAX)
        die("a job's id or token has more than %d bytes", ID_BYTES_MAX);
    memcpy(right.id, id, id_bytes);
    return right;
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

static int take_natively(int worker, struct heard *heard, struct right *right) /* 0: not a job */
{
    struct session *session = &sessions[worker];
    const struct value *said = heard->is;
    uint64_t safe = int_of(heard, ACK);
    if (safe > session->reports)
        die("a worker's report %llu was acknowledged before it was made", (unsigned long long)safe);
    session->safe = safe > session->safe ? safe : session->safe;
    if (is_text(&said[T], "ack"))
        now.acks++;
    else if (!is_text(&said[T], "job") && !is_text(&said[T], "recall")) /* what we have we have started: nothing to give */
        hear_common(heard, session, "a worker");
    if (!is_text(&said[T], "job"))
        return 0;
    if (int_of(heard, SEQ) != ++session->handed || session->handed > session->credit)
        die("a worker was handed job %llu after %llu, with credit for %llu", (unsigned long long)int_of(heard, SEQ),
            (unsigned long long)session->handed - 1, (unsigned long long)session->credit);
    if (said[TOKEN].kind != BIN || heard->body_frames != 1)
        die("a worker was handed a job without a token, or with more frames than were submitted (%s)", now.name);
    session->started = session->handed;
    *right = right_to(worker, said[TOKEN].data, said[TOKEN].size);
    return 1;
}

static int receive_natively(int worker, struct right *right, message_t *body)
{
    struct heard heard;
    while (hear(workers[worker], &heard)) {
        if (take_natively(worker, &heard, right)) {
            now.received++;
            zmq_msg_init(body);
            must(zmq_msg_move(body, &heard.body), "zmq_msg_move");
            forget(&heard);
            return 1;
        }
        forget(&heard);
    }
    return 0;
}

static int receive_job(int worker, struct right *right, message_t *body) /* 2010: ["", id, body]; 0: nothing there */
{
    message_t delimiter, id;
    if (dialect == NATIVE)
        return receive_natively(worker, right, body);
    if (!receive_frame(&delimiter, workers[worker], DONTWAIT))
        return 0;
    if (dialect == PROXY) {
        echo_through_proxy(worker, &delimiter);
        now.received++;
        return 1;
    }
    if (zmq_msg_size(&delimiter) != 0 || !zmq_msg_more(&delimiter))
        die("a worker was sent something that is not a job (%s)", now.name);
    receive_frame(&id, workers[worker], 0);
    if (!zmq_msg_more(&id))
        die("a worker was sent a job without a body (%s)", now.name);
    *right = right_to(worker, zmq_msg_data(&id), zmq_msg_size(&id));
    zmq_msg_close(&id);
    receive_frame(body, workers[worker], 0);
    if (zmq_msg_more(body))
        die("a worker was sent a job with more frames than were submitted (%s)", now.name);
    now.received++;
    zmq_msg_close(&delimiter);
    return 1;
}

static void answer_and_ask(const struct right *right, message_t *body) /* natively one message is both */
{
    int more = served_queues || now.asked < now.jobs;
    if (more && dialect == NATIVE)
        ask(right->worker);
    answer(right, body);
    if (more && dialect == D2010)
        ask(right->worker);
}

static long serve_flow(void) /* as a worker does: take, answer, ask again */
{
    long seen = 0;
    struct right right;
    message_t body;
    for (int worker = 0; worker < connections; worker++)
        while (receive_job(worker, &right, &body)) {
            seen++;
            if (dialect == PROXY)
                continue;
            if (held_jobs) {
                struct held *place = &held[random_below(held_jobs)], other = *place;
                *place = keep(&right, &body);
                make_body(&body, other.number);
                answer_and_ask(&other.right, &body);
            } else
                answer_and_ask(&right, &body);
        }
    return seen;
}

static long serve_hold(void)
{
    long seen = 0;
    struct right right;
    message_t body;
    for (int worker = 0; worker < connections; worker++) {
        long before = seen;
        while (receive_job(worker, &right, &body)) {
            seen++;
            held = room_for(held, &held_room, held_jobs + 1, sizeof *held);
            held[held_jobs++] = keep(&right, &body);
            if (now.asked < now.jobs)
                ask(worker);
        }
        if (dialect == NATIVE && seen > before)
            say_numbers(worker, "ask");
    }
    return seen;
}

static long serve_expire(void) /* takes every job twice: the first time and again */
{
    long seen = 0;
    struct right right;
    message_t body;
    for (int worker = 0; worker < connections; worker++)
        while (receive_job(worker, &right, &body)) {
            uint64_t arrived = clock_ns();
            struct held job = keep(&right, &body);
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
    int ready = zmq_poll(items, connections + 1, wait_ms < LOOK_EVERY_MS ? wait_ms : LOOK_EVERY_MS);
    if (ready < 0 && zmq_errno() != EINTR)
        must(ready, "poll");
    clock_ns();
    keep_alive();
    long moves = now.submitted + now.asked + now.received + now.answered;
    if (moves != now.moves) {
        now.moves = moves;
        now.moved_at = last_clock_ns;
    } else if ((int64_t)(last_clock_ns - now.moved_at) > (int64_t)STALL_MS * 1000000)
        die("%s: nothing happened for %ld s: %ld submitted, %ld asked, %ld received, %ld answered of %ld",
            now.name, STALL_MS / 1000, now.submitted, now.asked, now.received, now.answered, now.jobs);
}

static void begin(const char *name, long jobs, long window)
{
    memset(&now, 0, sizeof now);
    now.name = name;
    now.jobs = jobs;
    now.window = window < jobs ? window : jobs;
    now.moved_at = clock_ns();
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
    if (dialect == NATIVE)
        printf(", \"acks\": %ld", now.acks);
    if (client_session.received > client_session.receipted) /* no request will say so for a while */
        say_receipt();
}

static void flow(long jobs, long window)
{
    begin("flow", jobs, window);
    now.latency = calloc((size_t)jobs, sizeof *now.latency);
    uint64_t started = clock_ns();
    if (dialect != PROXY)
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
    if (dialect != PROXY)
        ask_ahead(now.window);
    while (now.received < jobs)
        if (serve_flow() == 0)
            wait_for_messages(STALL_MS);
    report(started);
}

static void policy(long queues, long keys, long priorities, long backoff_ms)
{
    begin("policy", 0, 0);
    set_policy(queues, keys, priorities, backoff_ms);
    report(clock_ns());
}

static void fill(long jobs)
{
    begin("fill", jobs, jobs);
    uint64_t started = clock_ns();
    while (now.submitted < jobs) {
        submit();
        if (now.submitted % 65536 == 0)
            keep_alive();
    }
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
            answer_held(place);
            *place = held[--held_jobs];
        }
        if (receive_answers(0) + serve_hold() == 0) /* what workers hear now acknowledges their answers */
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
        answer_held(&held[held_jobs - 1]);
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

#include "waits.h"

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
    LOOK_UP(zmq_msg_move);
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
    long a = 0, b = 0, c = 0, d = 0;
    int words = sscanf(line, "%15s %ld %ld %ld %ld", name, &a, &b, &c, &d);
    if (words == 1 && !strcmp(name, "quit"))
        return 0;
    if (words == 3 && !strcmp(name, "flow") && a > 0 && b > 0)
        flow(a, b);
    else if (words == 3 && !strcmp(name, "call") && a > 0 && b > 0)
        call(a, b);
    else if (words == 3 && !strcmp(name, "serve") && a > 0 && b > 0)
        serve(a, b);
    else if (words == 2 && !strcmp(name, "fill") && a > 0 && dialect != PROXY)
        fill(a);
    else if (words == 3 && !strcmp(name, "hold") && a > 0 && b > 0 && dialect != PROXY)
        hold(a, b);
    else if (words == 2 && !strcmp(name, "drain") && a > 0 && held_jobs)
        drain(a);
    else if (words == 4 && !strcmp(name, "expire") && a > 0 && b >= 0 && c > 0 && dialect == D2010 && !held_jobs)
        expire(a, b, c);
    else if (words == 5 && !strcmp(name, "policy") && a >= 0 && b >= 0 && c >= 0 && d >= 0 && dialect == NATIVE)
        policy(a, b, c, d);
    else if (words == 4 && !strcmp(name, "delay") && a > 0 && b > 0 && c > 0 && dialect == NATIVE && !delayed.jobs)
        delay(a, b, c);
    else if (words == 2 && !strcmp(name, "due") && a > 0 && delayed.jobs)
        due(a);
    else if (words == 5 && !strcmp(name, "tenant") && a > 0 && b > connections && c > 0 && d >= 0 && served_queues)
        tenant(a, b, c, d);
    else
        die("what is `%s`?", line);
    printf("}\n");
    fflush(stdout);
    return 1;
}

static void write_queues(struct written *header, int worker)
{
    char names[QUEUES_EACH_MAX][NAME_MAX_BYTES];
    const char *queues[QUEUES_EACH_MAX];
    for (long n = 0; n < queues_each; n++)
        queues[n] = numbered(names[n], "q", (worker * queues_each + n) % served_queues);
    write_texts_pair(header, "queues", queues, (size_t)queues_each);
}

static void greet(void) /* native: say hello on every connection, and wait until each is welcome */
{
    static const char *const features[] = {"starts", "recalls"};
    struct written header;
    uint8_t incarnation[16];
    begin("hello", 0, 0);
    begin_saying(&header, "hello");
    write_text_pair(&header, "agent", "relet load");
    say(client, &client_session, &header, NULL);
    for (int worker = 0; worker < connections; worker++) {
        begin_saying(&header, "hello");
        if (getrandom(incarnation, sizeof incarnation, 0) != sizeof incarnation)
            die("getrandom: %s", strerror(errno));
        write_bin_pair(&header, "incarnation", incarnation, sizeof incarnation);
        write_texts_pair(&header, "features", features, 2);
        write_text_pair(&header, "agent", "relet load");
        if (served_queues)
            write_queues(&header, worker);
        say(workers[worker], &sessions[worker], &header, NULL);
    }
    uint64_t given_up = clock_ns() + (uint64_t)WELCOME_MS * 1000000;
    for (int welcome = 0; welcome < connections + 1;) {
        if (zmq_poll(items, connections + 1, LOOK_EVERY_MS) == 0 && clock_ns() > given_up)
            die("%d of %d hellos were not answered within %ld s: is this a broker that speaks the native dialect?",
                connections + 1 - welcome, connections + 1, WELCOME_MS / 1000);
        hear_outcomes(0);
        serve_hold();
        welcome = client_session.heartbeat_ns != 0;
        for (int worker = 0; worker < connections; worker++)
            welcome += sessions[worker].heartbeat_ns != 0;
    }
}

static void rest(void) /* native: between commands, until there is another: be heard, and hear */
{
    begin("rest", 0, 0);
    pollitem_t *input = &items[connections + 1];
    *input = (pollitem_t){NULL, STDIN_FILENO, POLLIN, 0};
    while (zmq_poll(items, connections + 2, LOOK_EVERY_MS) >= 0 && !input->revents) {
        clock_ns();
        keep_alive();
        hear_outcomes(0);
        if (serve_flow() || now.answered)
            die("a job or an outcome came between two commands");
    }
}

int main(int argc, char **argv)
{
    if (argc != 8 && argc != 10)
        die("usage: load LIBZMQ 2010|native|proxy CLIENTS WORKERS ANSWERS|- CONNECTIONS BODY_BYTES [QUEUES EACH]");
    load_library(argv[1]);
    dialect = !strcmp(argv[2], "proxy") ? PROXY : !strcmp(argv[2], "native") ? NATIVE : D2010;
    connections = atoi(argv[6]);
    body_bytes = (size_t)atol(argv[7]);
    if (connections < 0 || connections > CONNECTIONS_MAX || body_bytes < BODY_BYTES_MIN)
        die("CONNECTIONS must be 0..%d, BODY_BYTES at least %d", CONNECTIONS_MAX, BODY_BYTES_MIN);

    if (argc == 10) {
        served_queues = atol(argv[8]);
        queues_each = atol(argv[9]);
        if (dialect != NATIVE || served_queues < 1 || queues_each < 1 || queues_each > QUEUES_EACH_MAX ||
            queues_each * connections < served_queues || queues_each > served_queues)
            die("QUEUES: only natively; EACH: 1..%d, so many that each queue is served", QUEUES_EACH_MAX);
    }

    void *context = zmq_ctx_new();
    client = connected(context, DEALER, argv[3]);
    items[0] = (pollitem_t){client, 0, POLLIN, 0};
    for (int n = 0; n < connections; n++) {
        workers[n] = connected(context, DEALER, argv[4]);
        items[n + 1] = (pollitem_t){workers[n], 0, POLLIN, 0};
        if (dialect == D2010)
            answers[n] = connected(context, PUSH, argv[5]);
    }
    if (getrandom(run_id, sizeof run_id, 0) != sizeof run_id)
        die("getrandom: %s", strerror(errno));
    if (dialect == NATIVE)
        greet();
    setvbuf(stdin, NULL, _IONBF, 0); /* so that what has arrived can be polled for */
    for (char line[128];;) {
        if (dialect == NATIVE)
            rest();
        if (!fgets(line, sizeof line, stdin))
            break;
        line[strcspn(line, "\n")] = 0;
        if (!obey(line))
            break;
    }
    _Exit(0); /* the sockets die with the process: closing a million queued messages would take its time */
}
