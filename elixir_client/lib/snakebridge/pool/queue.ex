defmodule SnakeBridge.Pool.Queue do
  @moduledoc """
  Who waits for a connection to a worker, in one line per session. The next is of the session that holds the fewest connections, and among equals of
  the one whose turn is longest ago: a session that floods waits for itself.
  """

  @enforce_keys [:ring]
  defstruct [:ring, lines: %{}, length: 0, endings: 0, joined: 0]

  @typedoc "What tells sessions apart here: a number, as it fits into an atomic."
  @type session :: pos_integer()
  @typedoc "`ends`: it ends its session. That takes no time to speak of, and is never refused."
  @type entry :: %{required(:session) => session(), optional(:ends) => boolean(), optional(atom()) => term()}
  @opaque t :: %__MODULE__{
            ring: :queue.queue(session()),
            lines: %{session() => :queue.queue(entry())},
            length: non_neg_integer(),
            endings: non_neg_integer(),
            joined: non_neg_integer()
          }

  @spec new() :: t()
  def new, do: %__MODULE__{ring: :queue.new()}

  @spec size(t()) :: non_neg_integer()
  def size(queue), do: queue.length

  @doc "How many wait to do something, and not merely to end their sessions."
  @spec working(t()) :: non_neg_integer()
  def working(queue), do: queue.length - queue.endings

  @doc "How many turns that take time pass before that of a newcomer of this session, as far as nobody else comes."
  @spec position(t(), session()) :: pos_integer()
  def position(queue, session) do
    sessions = max(map_size(queue.lines) - queue.endings, 1)

    case queue.lines do
      %{^session => line} -> min(working(queue) + 1, (:queue.len(line) + 1) * sessions)
      _ -> min(working(queue), sessions) + 1
    end
  end

  @doc "Puts an entry at the end of its session's line."
  @spec join(t(), entry()) :: t()
  def join(queue, %{session: session} = entry) do
    # Its number tells who came first, also between lines.
    entry = Map.put(entry, :number, queue.joined)

    queue = %{
      queue
      | length: queue.length + 1,
        endings: queue.endings + ends(entry),
        joined: queue.joined + 1
    }

    case queue.lines do
      %{^session => line} = lines ->
        %{queue | lines: %{lines | session => :queue.in(entry, line)}}

      lines ->
        line = :queue.in(entry, :queue.new())
        %{queue | ring: :queue.in(session, queue.ring), lines: Map.put(lines, session, line)}
    end
  end

  @doc "Takes the next entry out; `held` says how many connections a session has, where that is any; one that has `most` gets no more."
  @spec next(t(), %{session() => pos_integer()}, pos_integer()) :: {entry(), t()} | :none
  def next(queue, held, most) do
    case choose(queue.ring, held, nil, most, []) do
      {nil, _} -> :none
      {session, ring} -> take(queue, session, ring)
    end
  end

  defp take(queue, session, ring) do
    {entry, queue} = first_of(%{queue | ring: ring}, session)
    # It comes to the end of the ring with what is left of its line.
    left? = is_map_key(queue.lines, session)
    {entry, if(left?, do: %{queue | ring: :queue.in(session, queue.ring)}, else: queue)}
  end

  # No more sessions hold something than there are connections: the walk to the first that holds nothing is short.
  defp choose(ring, held, best, least, passed) do
    with {{:value, session}, rest} <- :queue.out(ring),
         count when count > 0 <- Map.get(held, session, 0) do
      if count < least,
        do: choose(rest, held, session, count, [session | passed]),
        else: choose(rest, held, best, least, [session | passed])
    else
      0 -> {:queue.head(ring), put_back(passed, nil, :queue.tail(ring))}
      {:empty, ring} -> {best, put_back(passed, best, ring)}
    end
  end

  defp put_back(passed, chosen, ring),
    do: Enum.reduce(passed, ring, &if(&1 == chosen, do: &2, else: :queue.in_r(&1, &2)))

  defp ends(%{ends: true}), do: 1
  defp ends(_), do: 0

  @doc "Takes out who has waited longest, among those of the longest lines. Lines in which the end of the session is next are left alone."
  @spec oldest_of_longest(t()) :: {entry(), t()} | :none
  def oldest_of_longest(queue) do
    lines =
      for {session, line} <- queue.lines,
          first = :queue.get(line),
          ends(first) == 0,
          do: {session, line, first}

    if lines == [] do
      :none
    else
      {session, _, _} = Enum.max_by(lines, fn {_, line, first} -> {:queue.len(line), -first.number} end)
      take_out(queue, session)
    end
  end

  defp take_out(queue, session) do
    {entry, queue} = first_of(queue, session)
    left? = is_map_key(queue.lines, session)
    {entry, if(left?, do: queue, else: %{queue | ring: :queue.delete(session, queue.ring)})}
  end

  # The ring is left to the caller.
  defp first_of(queue, session) do
    {{:value, entry}, line} = :queue.out(queue.lines[session])

    lines =
      if :queue.is_empty(line),
        do: Map.delete(queue.lines, session),
        else: %{queue.lines | session => line}

    {entry, %{queue | lines: lines, length: queue.length - 1, endings: queue.endings - ends(entry)}}
  end

  @doc "Takes out all for which `gone?` holds."
  @spec reject(t(), (entry() -> boolean())) :: {[entry()], t()}
  def reject(queue, gone?) do
    {lines, out} =
      Enum.reduce(queue.lines, {%{}, []}, fn {session, line}, {lines, out} ->
        {gone, left} = line |> :queue.to_list() |> Enum.split_with(gone?)
        lines = if left == [], do: lines, else: Map.put(lines, session, :queue.from_list(left))
        {lines, gone ++ out}
      end)

    ring = if out == [], do: queue.ring, else: :queue.filter(&is_map_key(lines, &1), queue.ring)
    endings = queue.endings - Enum.sum(Enum.map(out, &ends/1))
    {out, %{queue | lines: lines, ring: ring, length: queue.length - length(out), endings: endings}}
  end

  @doc "All entries, line by line."
  @spec to_list(t()) :: [entry()]
  def to_list(queue),
    do: for(session <- :queue.to_list(queue.ring), entry <- :queue.to_list(queue.lines[session]), do: entry)
end
