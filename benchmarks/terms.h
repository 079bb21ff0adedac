/* What the load generator says of a job beyond its id: its queue, and policies that the broker has to heed.
 *
 *     policy QUEUES KEYS PRIORITIES BACKOFF_MS    each job from now on goes to one of QUEUES queues (q0, q1 ...), belongs
 *                                                 to one of KEYS fairness keys, and has one of PRIORITIES priorities, all
 *                                                 drawn at random, and a backoff with that base. 0: nothing is said of it.
 *
 * All that is drawn comes from one sequence that is the same in each run. A key may meet any queue.
 */

enum { NAME_MAX_BYTES = 24 };

static struct {
    long queues, keys, priorities;
    long queue;                 /* this one, for each job, or -1 */
    const char *fair;           /* this one, for each job, or NULL */
    uint64_t delay_ms;          /* 0: none */
    int ack;                    /* whether to hear of the acceptance */
    struct written backoff;     /* size 0: none */
} terms = {.queue = -1};

static const char *numbered(char *name, const char *prefix, long number)
{
    snprintf(name, NAME_MAX_BYTES, "%s%ld", prefix, number);
    return name;
}

static void set_policy(long queues, long keys, long priorities, long backoff_ms)
{
    terms.queues = queues;
    terms.keys = keys;
    terms.priorities = priorities;
    terms.backoff.size = 0;
    if (backoff_ms) {
        begin_map(&terms.backoff);
        write_text_pair(&terms.backoff, "curve", "exponential");
        write_int_pair(&terms.backoff, "base_ms", (uint64_t)backoff_ms);
        write_int_pair(&terms.backoff, "cap_ms", (uint64_t)backoff_ms * 60);
        write_true_pair(&terms.backoff, "jitter");
    }
}

static void write_terms(struct written *header)
{
    char name[NAME_MAX_BYTES];
    if (terms.queue >= 0)
        write_text_pair(header, "queue", numbered(name, "q", terms.queue));
    else if (terms.queues)
        write_text_pair(header, "queue", numbered(name, "q", (long)random_below((uint64_t)terms.queues)));
    if (terms.fair)
        write_text_pair(header, "fair", terms.fair);
    else if (terms.keys)
        write_text_pair(header, "fair", numbered(name, "key-", (long)random_below((uint64_t)terms.keys)));
    if (terms.priorities)
        write_int_pair(header, "priority", random_below((uint64_t)terms.priorities));
    if (terms.backoff.size)
        write_map_pair(header, "backoff", &terms.backoff);
    if (terms.delay_ms)
        write_int_pair(header, "delay_ms", terms.delay_ms);
    if (terms.ack)
        write_true_pair(header, "ack");
}
