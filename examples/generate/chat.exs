# A conversation with a language model in the terminal; its words appear as they are made.
#
#     mix run examples/generate/chat.exs [--temperature 0.7] [--seed 1] [--max-tokens 512] [--system "You are brief."]
#
# /reset forgets the conversation, /quit or Ctrl-D ends the program, Ctrl-C ends the answer.

defmodule Chat.Interrupt do
  @moduledoc """
  Ctrl-C as a message `:interrupt` to a process, on every OTP since 21. The BEAM keeps SIGINT for its break handler and lets no program have it, so
  the terminal is told to send SIGQUIT for Ctrl-C, which a program may have. Workers run in sessions of their own and never see it.
  """
  @behaviour :gen_event

  @doc "Runs a function with Ctrl-C taken over; without a terminal just runs it."
  def taken_over(function) do
    case stty("-g") do
      {saved, 0} ->
        :gen_event.swap_handler(:erl_signal_server, {:erl_signal_handler, []}, {__MODULE__, self()})
        :os.set_signal(:sigquit, :handle)
        stty("intr undef quit ^C")

        try do
          function.()
        after
          stty(String.trim(saved))
        end

      _ ->
        function.()
    end
  end

  # Commands of the BEAM have no controlling terminal, so /dev/tty would not do: it is named by the process that has one.
  defp stty(settings) do
    System.cmd("/bin/sh", ["-c", "stty #{settings} < #{terminal()}"], stderr_to_stdout: true)
  end

  defp terminal do
    with {:error, _} <- File.read_link("/proc/#{System.pid()}/fd/0"),
         {name, 0} <- System.cmd("ps", ["-o", "tty=", "-p", System.pid()]) do
      "/dev/" <> String.trim(name)
    else
      {:ok, "/dev/" <> _ = path} -> path
      _ -> "/dev/null"
    end
  end

  @impl true
  def init({listener, _}), do: {:ok, listener}

  @impl true
  def handle_event(:sigquit, listener) do
    send(listener, :interrupt)
    {:ok, listener}
  end

  # Other signals do what they always do.
  def handle_event(signal, listener) do
    :erl_signal_handler.handle_event(signal, nil)
    {:ok, listener}
  end

  @impl true
  def handle_call(_, listener), do: {:ok, :ok, listener}
end

defmodule Chat do
  @moduledoc false

  @switches [
    temperature: :float,
    top_p: :float,
    top_k: :integer,
    seed: :integer,
    max_tokens: :integer,
    system: :string
  ]
  @pool :chat

  def run(arguments) do
    {options, _, wrong} = OptionParser.parse(arguments, strict: @switches)
    for {name, value} <- wrong, do: IO.puts(:stderr, "chat: ignored #{name} #{value}")
    {system, options} = Keyword.pop(options, :system)
    options = Keyword.merge([temperature: 0.2, top_p: 0.9, max_tokens: 512], options)

    env = [{"PYTHONPATH", Path.join(__DIR__, "python")}]
    {:ok, _} = SnakeBridge.Pool.start_link(name: @pool, size: 1, env: env)
    IO.puts(dim("Loading the model ..."))
    model = SnakeBridge.call!("smollm", "load", [], slots: 1, pool: @pool)
    IO.puts(dim("#{SnakeBridge.get_attr!(model, :name)}. /reset forgets, /quit ends, Ctrl-C ends an answer."))

    first = if system, do: [message("system", system)], else: []
    Chat.Interrupt.taken_over(fn -> converse(model, options, first, first) end)
  end

  defp converse(model, options, first, messages) do
    case read() do
      :end ->
        :ok

      "/quit" ->
        :ok

      "/reset" ->
        IO.puts(dim("Forgotten."))
        converse(model, options, first, first)

      "" ->
        converse(model, options, first, messages)

      text ->
        messages = messages ++ [message("user", text)]
        said = answer(model, options, messages)
        converse(model, options, first, messages ++ [message("assistant", said)])
    end
  end

  defp read do
    case IO.gets("\n> ") do
      text when is_binary(text) -> String.trim(text)
      _ -> :end
    end
  end

  # What was said, also when it was cut short: the conversation goes on from there.
  defp answer(model, options, messages) do
    interrupted?()
    said = :ets.new(:said, [:ordered_set])

    tell = fn
      {:chunk, piece} ->
        IO.write(piece)
        :ets.insert(said, {:ets.info(said, :size), piece})
        if interrupted?(), do: :halt

      {:done, nil} ->
        IO.puts(dim(" [interrupted]"))

      {:done, stats} ->
        IO.puts(
          dim(
            "\n[#{stats["tokens"]} tokens, #{stats["tok_s"]} per second, first after #{stats["ttft_ms"]} ms]"
          )
        )

      {:error, error} ->
        IO.puts(IO.ANSI.format([:red, "\n", Exception.message(error)]))
    end

    SnakeBridge.stream(model, :generate, [messages], [callback: tell] ++ options)
    for {_, piece} <- :ets.tab2list(said), into: "", do: piece
  end

  # True when Ctrl-C was pressed since the last look.
  defp interrupted? do
    receive do
      :interrupt -> interrupted?() || true
    after
      0 -> false
    end
  end

  defp message(role, content), do: %{"role" => role, "content" => content}

  defp dim(text), do: IO.ANSI.format([:faint, text])
end

Chat.run(System.argv())
