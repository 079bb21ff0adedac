/* The load generator's commands that see how long jobs wait: for their moment, and behind other tenants.
 *
 *     delay JOBS SPREAD_MS LEAD_MS        submit JOBS delayed jobs. They are due evenly over SPREAD_MS, in random order,
 *                                         the first LEAD_MS from now; all must have been submitted by then
 *     due WINDOW                          take them when they come, WINDOW unspent asks at any time, and answer them
 *     tenant JOBS CROWD LENGTH_US QUEUE   with queues. A tenant (fairness key "one") submits JOBS jobs to q0, the next
 *                                         when it has the outcome of the last. Another (key "crowd") has CROWD jobs open
 *                                         all the time, in queue number QUEUE, and keeps all workers busy. A worker
 *                                         has one job at a time, for 0.5 to 1.5 times LENGTH_US, drawn at random
 *
 * A delayed job is due, by the clock of who submitted it, so long after it was submitted as it said. The broker can only
 * count from where it read the message; so jobs are submitted no faster than it reads them: what it has accepted is heard
 * of every PACE jobs, and no more than 2 * PACE are under way.
 */

enum { PACE = 50 };

static struct { long jobs; uint64_t first_number, base, *at; } delayed; /* base: when the first is due; at: [job] */
static long crowd_open;

static long stride(long count) /* i * stride % count visits each number below `count` once, neighbours far apart */
{
    for (long step = (long)(0.618034 * (double)count) | 1;; step += 2) {
        long a = step, b = count;
        while (b) {
            long rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return step;
    }
}

static void submit_paced(void) /* once no more than 2 * PACE jobs are submitted that the broker has not accepted */
{
    while (now.submitted / PACE - now.accepted > 1)
        if (hear_outcomes(0) == 0)
            wait_for_messages(STALL_MS);
    terms.ack = (now.submitted + 1) % PACE == 0;
    submit();
    terms.ack = 0;
}

static void delay(long jobs, long spread_ms, long lead_ms)
{
    begin("delay", jobs, jobs);
    uint64_t started = clock_ns(), spread = (uint64_t)spread_ms * 1000000, step = (uint64_t)stride(jobs);
    delayed.jobs = jobs;
    delayed.first_number = numbers;
    delayed.base = started + (uint64_t)lead_ms * 1000000;
    delayed.at = calloc((size_t)jobs, sizeof *delayed.at);
    for (long n = 0; n < jobs; n++) {
        uint64_t due = delayed.base + (uint64_t)n * step % (uint64_t)jobs * (spread / (uint64_t)jobs);
        if (clock_ns() + 1000000 > delayed.base)
            die("delay: %ld of %ld jobs were submitted within %ld ms: give it a longer lead", n, jobs, lead_ms);
        terms.delay_ms = (due - last_clock_ns) / 1000000;
        submit_paced();
        delayed.at[n] = submitted_at[numbers - 1] + terms.delay_ms * 1000000;
    }
    terms.delay_ms = 0;
    while (now.accepted < jobs / PACE)
        if (hear_outcomes(0) == 0)
            wait_for_messages(STALL_MS);
    report(started);
    printf(", \"left_ms\": %.3f", (double)(int64_t)(delayed.base - clock_ns()) / 1e6);
}

static void due(long window)
{
    long jobs = delayed.jobs, taken = 0, early = 0;
    int64_t *late = calloc((size_t)jobs, sizeof *late);
    struct right right;
    message_t body;
    begin("due", jobs, window);
    uint64_t started = clock_ns();
    if (started > delayed.base)
        die("due: it began %.0f ms after the first job was due: give it a longer lead",
            (double)(started - delayed.base) / 1e6);
    now.moved_at = delayed.base;
    ask_ahead(now.window);
    while (now.answered < jobs) {
        long seen = receive_answers(0);
        for (int worker = 0; worker < connections; worker++)
            for (; receive_job(worker, &right, &body); seen++) {
                uint64_t arrived = clock_ns(), number;
                if (!read_body(&body, &number) || number - delayed.first_number >= (uint64_t)jobs || taken == jobs)
                    die("a job arrived that is none of those that are due");
                late[taken] = (int64_t)(arrived - delayed.at[number - delayed.first_number]);
                early += late[taken++] < 0;
                answer_and_ask(&right, &body);
            }
        if (!seen)
            wait_for_messages(STALL_MS);
    }
    report(started);
    printf(", \"early\": %ld", early);
    print_percentiles("late_ms", late, jobs);
    free(late);
    free(delayed.at);
    memset(&delayed, 0, sizeof delayed);
}

/* ---- tenants ---- */

static struct { struct right right; uint64_t number, until; } busy[CONNECTIONS_MAX]; /* until 0: has asked, and waits */

static struct {                     /* the tenant that has one job at a time */
    uint64_t number;                /* of the job that is open */
    int open, arrived;
    long ended, waits, heard;       /* of its jobs: have ended, were begun; outcomes that were looked at, of all tenants */
    int64_t *wait_ns;
} one;

static void submit_of(const char *fair, long queue)
{
    terms.fair = fair;
    terms.queue = queue;
    submit_paced();
    terms.fair = NULL;
    terms.queue = -1;
}

static long next_end_ms(void) /* how long to sleep: the last part of a millisecond is waited for awake */
{
    uint64_t first = UINT64_MAX;
    for (int worker = 0; worker < connections; worker++)
        if (busy[worker].until && busy[worker].until < first)
            first = busy[worker].until;
    if (first == UINT64_MAX)
        return STALL_MS;
    return first > clock_ns() ? (long)((first - last_clock_ns) / 1000000) : 0;
}

static long take_work(uint64_t length_ns, int64_t *idle_ns, uint64_t *asked_at)
{
    long seen = 0;
    struct right right;
    message_t body;
    for (int worker = 0; worker < connections; worker++)
        for (; receive_job(worker, &right, &body); seen++) {
            uint64_t arrived = clock_ns();
            struct held job = keep(&right, &body);
            *idle_ns += (int64_t)(arrived - asked_at[worker]);
            busy[worker].right = right;
            busy[worker].number = job.number;
            busy[worker].until = arrived + length_ns / 2 + random_below(length_ns);
            if (one.open && !one.arrived && job.number == one.number) {
                one.arrived = 1;
                one.wait_ns[one.waits++] = (int64_t)(arrived - submitted_at[job.number]);
            }
        }
    return seen;
}

static long end_work(int ask_again, uint64_t *asked_at)
{
    long ended = 0;
    for (int worker = 0; worker < connections; worker++)
        if (busy[worker].until && (!ask_again || busy[worker].until <= clock_ns())) {
            struct held job = {busy[worker].right, busy[worker].number};
            busy[worker].until = 0;
            if (ask_again)
                ask(worker);
            answer_held(&job);
            asked_at[worker] = last_clock_ns;
            ended++;
        }
    return ended;
}

static void hear_ends(void) /* of all tenants */
{
    hear_outcomes(0);
    crowd_open -= now.answered - one.heard;
    one.heard = now.answered;
    if (one.open && !submitted_at[one.number]) {
        one.open = one.arrived = 0;
        one.ended++;
        crowd_open++;
    }
}

static void tenant(long jobs, long crowd, long length_us, long queue)
{
    static uint64_t asked_at[CONNECTIONS_MAX];
    uint64_t length_ns = (uint64_t)length_us * 1000;
    int64_t idle_ns = 0;
    begin("tenant", jobs, 1);
    memset(&one, 0, sizeof one);
    one.wait_ns = calloc((size_t)jobs, sizeof *one.wait_ns);
    for (; crowd_open < crowd; crowd_open++)
        submit_of("crowd", queue);
    while (now.accepted < now.submitted / PACE)
        if (hear_outcomes(0) == 0)
            wait_for_messages(STALL_MS);
    uint64_t started = clock_ns();
    for (int worker = 0; worker < connections; worker++) {
        ask(worker);
        asked_at[worker] = started;
    }
    say_asks();
    while (one.ended < jobs) { /* the tenant begins when the workers have done a few jobs each, and are out of step */
        if (!one.open && clock_ns() > started + 4 * length_ns) {
            submit_of("one", 0);
            one.number = numbers - 1;
            one.open = 1;
        }
        for (; crowd_open < crowd; crowd_open++)
            submit_of("crowd", queue);
        if (take_work(length_ns, &idle_ns, asked_at) + end_work(1, asked_at) == 0)
            wait_for_messages(next_end_ms());
        hear_ends();
    }
    double seconds = (double)(clock_ns() - started) / 1e9;
    while (take_work(length_ns, &idle_ns, asked_at), now.received < now.asked) /* the crowd has a job for every ask */
        wait_for_messages(STALL_MS);
    end_work(0, asked_at);
    while (now.answered < now.received) { /* also those that were answered before, and were not heard of */
        hear_ends();
        wait_for_messages(1);
    }
    report(started);
    printf(", \"busy\": %.6f, \"waits_ms\": [", 1 - (double)idle_ns / 1e9 / seconds / connections);
    for (long n = 0; n < one.waits; n++)
        printf("%s%.6f", n ? ", " : "", (double)one.wait_ns[n] / 1e6);
    printf("]");
    free(one.wait_ns);
}
