// People for `fake_meeting.js`: pictures, figures and emoji as a node and others would bring them.

const NAMES = [
  "Alice",
  "Борис",
  "Chen Wei",
  "Dana",
  "Émile",
  "Farid",
  "Greta",
  "Hugo",
  "Ines",
  "Jan",
  "Kim",
];
const IDENTITIES = ["known", "verified", "new"];

function picture(hue) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: 640, height: 360 });
  const context = canvas.getContext("2d");
  const ground = context.createLinearGradient(0, 0, 640, 360);
  ground.addColorStop(0, `hsl(${hue} 45% 32%)`);
  ground.addColorStop(1, `hsl(${hue + 50} 45% 55%)`);
  context.fillStyle = ground;
  context.fillRect(0, 0, 640, 360);
  context.fillStyle = "#fff9";
  context.beginPath();
  context.arc(320, 150, 60, 0, 7);
  context.ellipse(320, 350, 130, 120, 0, 0, 7);
  context.fill();
  return canvas.captureStream(5);
}

/** `emoji`: where their module is served. */
async function bringPeople(count, emoji) {
  const { EMOJI } = await import(emoji);
  const stats_history = Array.from({ length: 40 }, (_, second) => ({
    rtt_ms: 40 + 10 * Math.sin(second / 3),
    loss: second % 9 ? 0 : 0.02,
    jitter_ms: 3 + (second % 3),
    in_kbps: 900 + 200 * Math.sin(second / 5),
    out_kbps: 850,
    codec: "opus, VP8",
  }));
  const peers = Array.from({ length: count }, (_, index) => {
    const camera = index !== 1 && index !== 3;
    const words_index = Array.from({ length: 7 }, (_, place) => (place + 5 * index) % EMOJI.length);
    return {
      id: `000${(index + 2).toString(36)}`,
      name: NAMES[index],
      away: false,
      path: index % 2 ? "relayed" : "direct",
      connection: index === 4 ? "interrupted" : "connected",
      microphone: index !== 2,
      camera,
      screen: false,
      speaking: index === 0,
      level: 0,
      audioStream: null,
      screenStream: null,
      cameraStream: camera ? picture(150 + 60 * index) : null,
      verification: {
        emoji: words_index.map((word) => EMOJI[word].emoji),
        words_index,
        label: "ab12 cd34 ef56 7890",
        identity: IDENTITIES[index % 3],
        rosterAgrees: true,
        failed: null,
      },
      stats: stats_history.at(-1),
      stats_history,
    };
  });
  const chat = [
    {
      id: "1",
      from: "0002",
      name: "Alice",
      text: "Hello! Here are the papers.",
      at_ms: 1.79e12,
      mine: false,
    },
    {
      id: "2",
      from: "0001",
      name: "",
      text: "Thank you, I am reading.",
      at_ms: 1.79e12 + 6e4,
      mine: true,
    },
  ];
  const files = [
    {
      id: "f1",
      from: "0002",
      name: "contract.pdf",
      size: 2400000,
      sent_or_received_bytes: 900000,
      direction: "in",
      status: "running",
    },
    {
      id: "f2",
      from: "0002",
      name: "photo.jpg",
      size: 400000,
      sent_or_received_bytes: 0,
      direction: "in",
      status: "offered",
    },
  ];
  window.montana.meeting.set({ peers, chat, files });
}
