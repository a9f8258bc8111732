defmodule SnakeBridge.Codec.Typed do
  @moduledoc """
  Named types: those that travel as a tag and a payload made of other values (docs/wire.md section 1.1), ours and users'.

  The table is the one place where such a type is declared: its tag, its struct here, and the module of its family, whose `dump/1` gives the
  payload of a struct and whose `load/3` makes the term of a tag and a payload. `packed` and `tagged` schema 2 both carry them.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, malformed: 2, show: 1]

  alias SnakeBridge.{Encoder, Extension, OrderedMap, Types}
  alias SnakeBridge.Codec.{Failure, Options}
  alias SnakeBridge.Codec.Typed.{Native, Python, Times}

  @table [
    {"namedtuple", SnakeBridge.NamedTuple, Python},
    {"enum", SnakeBridge.Enum, Python},
    {"range", Range, Native},
    {"slice", SnakeBridge.Slice, Python},
    {"ellipsis", SnakeBridge.Ellipsis, Python},
    {"timedelta", SnakeBridge.TimeDelta, Times},
    {"fold", SnakeBridge.Fold, Times},
    {"timezone", SnakeBridge.TimeZone, Times},
    {"zoneinfo", SnakeBridge.ZoneInfo, Times},
    {"time", SnakeBridge.ZonedTime, Times},
    {"datetime", SnakeBridge.ZonedDateTime, Times},
    {"decimal", SnakeBridge.Decimal, Python},
    {"decimal", :"Elixir.Decimal", Native},
    {"fraction", SnakeBridge.Fraction, Python},
    {"uuid", SnakeBridge.UUID, Python},
    {"path", SnakeBridge.Path, Python},
    {"namespace", SnakeBridge.Namespace, Python},
    {"ip", SnakeBridge.IP, Python},
    {"pattern", SnakeBridge.Pattern, Python},
    {"regex", Regex, Native},
    {"uri", URI, Native},
    {"version", Version, Native},
    {"date_range", Date.Range, Native},
    {"datetime64", SnakeBridge.DateTime64, Times},
    {"timedelta64", SnakeBridge.TimeDelta64, Times},
    {"arrow", SnakeBridge.Arrow, Python},
    {"arrow", :"Elixir.Explorer.DataFrame", Native}
  ]
  @rows Enum.uniq_by(@table, &elem(&1, 0))
  # Tags that `tagged` uses for other things.
  @reserved ~w(atom tuple set frozenset bytes binary complex date special_float infinity neg_infinity nan dict callback ref stream_ref
               ndarray leaf pairs members naive_datetime stop_iteration)

  @doc "Whether a tag is the codec's own."
  @spec reserved?(String.t()) :: boolean()
  for tag <- Enum.uniq(Enum.map(@table, &elem(&1, 0)) ++ @reserved) do
    def reserved?(unquote(tag)), do: true
  end

  def reserved?(_), do: false

  @doc """
  Tag and payload of a struct; nil for one that has none. Throws for a malformed one.

  A family answers `{:ok, payload}`, `{:as, tag, payload}` when another tag says it better, `:foreign` for a value that Python cannot say, or
  `{:error, rule}` for a malformed one.
  """
  @spec dump(struct()) :: {String.t(), term()} | nil
  for {tag, struct, family} <- @table do
    def dump(%{__struct__: unquote(struct)} = value) do
      case unquote(family).dump(value) do
        {:ok, payload} -> {unquote(tag), payload}
        {:as, tag, payload} -> {tag, payload}
        :foreign -> nil
        {:error, rule} -> fail(:encode_error, "#{show(value)} cannot be sent: #{rule}")
      end
    end
  end

  def dump(%Extension{tag: tag, value: value} = extension) do
    if is_binary(tag) and String.valid?(tag) and not reserved?(tag),
      do: {tag, value},
      else:
        fail(
          :encode_error,
          "#{show(extension)} cannot be sent: its tag must be a text that is not the codec's own"
        )
  end

  def dump(%_{} = struct) do
    case Encoder.impl_for(struct) do
      nil -> nil
      implementation -> implementation.encode(struct) |> users(struct)
    end
  end

  def dump(_map), do: nil

  defp users({tag, payload}, struct) do
    case Types.check_tag(tag) do
      :ok -> {tag, payload}
      {:error, rule} -> fail(:encode_error, "#{show(struct)} cannot be sent: #{rule}")
    end
  end

  defp users(other, struct),
    do:
      fail(
        :encode_error,
        "#{show(struct)} cannot be sent: its SnakeBridge.Encoder must answer {tag, payload}, not #{show(other)}"
      )

  @doc "The term of a tag and a payload. Throws when the payload is not one of the tag."
  @spec load(String.t(), term(), Options.t()) :: term()
  def load("pattern", payload, opts), do: loaded("pattern", payload, Native.load("pattern", payload, opts))
  def load("decimal", payload, opts), do: loaded("decimal", payload, Native.load("decimal", payload, opts))
  def load("arrow", payload, opts), do: loaded("arrow", payload, Native.load("arrow", payload, opts))

  for {tag, _struct, family} <- @rows, tag not in ["pattern", "decimal", "arrow"] do
    def load(unquote(tag), payload, opts),
      do: loaded(unquote(tag), payload, unquote(family).load(unquote(tag), payload, opts))
  end

  def load(tag, payload, _opts) do
    # Tags and payloads may be parts of a large message, and outlive it.
    case Types.registered() do
      %{^tag => load} -> of_user(load, tag, payload)
      _ -> %Extension{tag: :binary.copy(tag), value: payload}
    end
  end

  defp loaded(_tag, _payload, {:ok, term}), do: term
  defp loaded(tag, payload, :error), do: malformed("a malformed #{tag}", payload)

  # Whoever reads this may read for others, too: code of the user costs nobody but the one whose value it is.
  defp of_user(load, tag, payload) do
    if is_function(load), do: load.(payload), else: of_fields(load, tag, payload)
  rescue
    error -> unread_by_user(tag, payload, Exception.message(error))
  catch
    :throw, {Failure, _, _} = failure -> throw(failure)
    kind, reason -> unread_by_user(tag, payload, Exception.format_banner(kind, reason))
  end

  defp unread_by_user(tag, payload, why) do
    text = "the registered type #{show(tag)} cannot be read from #{show(payload)}: #{why}"
    fail(:decode_error, text)
  end

  defp of_fields(module, tag, %OrderedMap{} = fields), do: of_fields(module, tag, OrderedMap.to_map(fields))

  defp of_fields(module, _tag, %{} = fields) when not is_struct(fields) do
    known =
      for field <- Map.keys(module.__struct__()), field != :__struct__, do: {Atom.to_string(field), field}

    known = Map.new(known)

    struct!(
      module,
      for {name, value} <- fields do
        case known do
          %{^name => field} -> {field, value}
          _ -> raise ArgumentError, "#{inspect(module)} has no field #{show(name)}"
        end
      end
    )
  end

  defp of_fields(module, tag, payload),
    do: malformed("a #{tag} that is not a map of the fields of #{inspect(module)}", payload)
end
